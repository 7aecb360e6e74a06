"""A Llama trained on every shape of mesh is the Llama trained on one device."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_study as toy

from cdjax.models import LlamaConfig
from cdjax.parallel.mesh import make_mesh
from cdjax.training import loop
from cdjax.training.accumulation import accumulate_gradients
from cdjax.training.loop import fit
from cdjax.training.state import TrainState, init_state

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
)
STEPS = 10


def batch_at(step):
    rng = np.random.default_rng(step)
    return {'tokens': rng.integers(0, 32, (8, 6)), 'answers': rng.integers(0, 4, 8)}


def loss_of(model, batch):
    logits, _ = model(batch['tokens'], logits_at=5)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch['answers']).mean()


def train(mesh, microbatches=1):
    tx = optax.adamw(3e-3)
    gradients = accumulate_gradients(jax.value_and_grad(loss_of), microbatches)

    def step(state, batch):
        loss, grads = gradients(state.params, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), {'loss': loss}

    # Given, not drawn: `test_discovery.py` draws a first state on a mesh.
    weights = jax.device_get(toy.random_model(CONFIG))
    first = lambda key: jax.tree.map(jnp.asarray, weights)
    state = init_state(first, tx, jax.random.key(0), mesh)
    with mock.patch.object(loop, 'LOG_EVERY', 1):
        state, history = fit(
            jax.jit(step, donate_argnums=0),
            state,
            batch_at,
            steps=STEPS,
            mesh=mesh,
            description='tiny',
        )
    return state, [point['loss'] for point in history]


@pytest.fixture(scope='module')
def on_one_device():
    return train(make_mesh(devices=jax.devices()[:1]))


def assert_agree(one, other):
    (state, losses), (other_state, other_losses) = one, other
    assert len(losses) == STEPS
    assert losses[-1] < 0.9 * losses[0], 'nothing was learned, so nothing is compared'
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(other_state.params), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)


# Where gradients are accumulated, they agree with those of the whole batch, too.
@pytest.mark.parametrize(
    ('fsdp', 'tensor', 'microbatches'), [(8, 1, 1), (4, 2, 1), (2, 4, 4), (1, 8, 1)]
)
def test_sharded_training_agrees_with_one_device(on_one_device, fsdp, tensor, microbatches):
    state, losses = train(make_mesh(fsdp, tensor), microbatches)
    down = state.params.layers.mlp.down.weight[...]
    assert down.addressable_shards[0].data.size == down.size // 8
    moment = state.opt_state[0].mu.layers.mlp.down.weight[...]
    assert moment.sharding == down.sharding
    assert_agree(on_one_device, (state, losses))


def test_accumulation_of_a_mean_is_the_mean_and_rows_must_divide():
    traced = []

    def loss_and_grad(params, batch):
        traced.append(batch)
        return jax.value_and_grad(lambda p: jnp.mean((p * batch['x']) ** 2))(params)

    x = np.random.default_rng(0).normal(size=12).astype(np.float32)
    loss, grad = accumulate_gradients(loss_and_grad, 3)(jnp.float32(2.0), {'x': x})
    np.testing.assert_allclose(loss, 4 * np.mean(x**2), rtol=1e-6)
    np.testing.assert_allclose(grad, 4 * np.mean(x**2), rtol=1e-6)
    assert len(traced) == 1
    with pytest.raises(ValueError, match='12 rows does not divide into 5'):
        accumulate_gradients(loss_and_grad, 5)(jnp.float32(2.0), {'x': x})
