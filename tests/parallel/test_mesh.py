"""The mesh, the rules that shard parameters on it, and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cdjax.errors import InputError
from cdjax.models import Llama, LlamaConfig
from cdjax.parallel.mesh import (
    LLAMA_RULES,
    check_batch,
    constrain,
    init_sharded,
    make_mesh,
    optimizer_shardings,
    parameter_shardings,
    put_batch,
    replicate,
    split_neurons,
)


def shapes(**leaves):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}


@pytest.mark.parametrize(('fsdp', 'tensor'), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_mesh_shapes(fsdp, tensor):
    mesh = make_mesh(fsdp, tensor)
    assert dict(mesh.shape) == {'fsdp': fsdp, 'tensor': tensor}
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert make_mesh(tensor=tensor) == mesh
    assert set(mesh.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    ('fsdp', 'tensor', 'words'),
    [(-1, 3, 'tensor=3'), (3, 1, 'fsdp=3'), (-1, 0, 'tensor=0'), (0, 2, 'fsdp=0'), (2, 2, '4')],
)
def test_mesh_that_does_not_divide_the_devices(fsdp, tensor, words):
    with pytest.raises(InputError, match=words) as error:
        make_mesh(fsdp, tensor)
    assert '8' in str(error.value)


def test_rules_of_an_8b_model_split_every_matrix_over_both_axes():
    mesh = make_mesh(4, 2)
    model = jax.eval_shape(lambda k: Llama(LlamaConfig.llama3_8b(), k), jax.random.key(0))
    shardings = parameter_shardings(model, mesh)
    specs = jax.tree.map(lambda s: s.spec, nnx.to_pure_dict(nnx.state(shardings)))
    block = {
        'attention': {
            **{n: {'weight': P(None, 'fsdp', 'tensor')} for n in 'qkv'},
            'o': {'weight': P(None, 'tensor', 'fsdp')},
        },
        'mlp': {
            'gate': {'weight': P(None, 'fsdp', 'tensor')},
            'up': {'weight': P(None, 'fsdp', 'tensor')},
            'down': {'weight': P(None, 'tensor', 'fsdp')},
        },
        'input_norm': {'weight': P()},
        'mlp_norm': {'weight': P()},
    }
    assert specs == {
        'embed': {'weight': P('tensor', 'fsdp')},
        'layers': block,
        'norm': {'weight': P()},
        'lm_head': {'weight': P('fsdp', 'tensor')},
    }


def test_axes_that_do_not_divide_are_dropped_for_that_dimension_only():
    tree = {'embed': shapes(weight=(7, 12)), 'lm_head': shapes(weight=(12, 7))}
    shardings = parameter_shardings(tree, make_mesh(4, 2))
    assert shardings['embed']['weight'].spec == P(None, 'fsdp')
    assert shardings['lm_head']['weight'].spec == P('fsdp')


def test_a_parameter_without_a_rule_raises_and_is_named():
    tree = {'norm': shapes(weight=(8,)), 'adapter': shapes(matrix=(8, 8), other=(3,))}
    with pytest.raises(ValueError, match=r'adapter\.matrix, adapter\.other'):
        parameter_shardings(tree, make_mesh())
    replicated = parameter_shardings(tree, make_mesh(), [('', P())])
    assert {s.spec for s in jax.tree.leaves(replicated)} == {P()}


def test_the_first_matching_rule_decides():
    rules = ((r'special\.norm\.weight$', P('fsdp')), *LLAMA_RULES)
    tree = {'special': {'norm': shapes(weight=(8,))}, 'norm': shapes(weight=(8,))}
    shardings = parameter_shardings(tree, make_mesh(), rules)
    assert shardings['special']['norm']['weight'].spec == P('fsdp')
    assert shardings['norm']['weight'].spec == P()


def test_optimizer_state_is_sharded_like_its_parameters():
    mesh = make_mesh(4, 2)
    params = {'embed': {'weight': jnp.ones((8, 16))}, 'norm': {'weight': jnp.ones(16)}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1, 9)))
    of_params = parameter_shardings(params, mesh)
    of_state = optimizer_shardings(tx, jax.eval_shape(tx.init, params), of_params, mesh)
    state = jax.jit(tx.init, out_shardings=of_state)(params)
    adam = state[1][0]
    for moment in (adam.mu, adam.nu):
        assert moment['embed']['weight'].sharding == NamedSharding(mesh, P('tensor', 'fsdp'))
        assert moment['norm']['weight'].sharding.is_fully_replicated
    assert adam.count.sharding.is_fully_replicated


def test_constrain_splits_under_a_mesh_and_is_the_identity_without():
    x = jnp.arange(32.0).reshape(8, 4)
    np.testing.assert_array_equal(constrain(x, 'fsdp', 'tensor'), x)
    with jax.set_mesh(make_mesh(4, 2)):
        y = jax.jit(lambda x: constrain(x, 'fsdp', 'tensor'))(x)
        assert y.sharding.spec == P('fsdp', 'tensor')
        odd = jax.jit(lambda x: constrain(x, 'tensor', 'fsdp'))(jnp.ones((8, 6)))
        assert odd.sharding.spec == P('tensor')  # 6 is no multiple of 4
        np.testing.assert_array_equal(y, x)
    other = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    with jax.set_mesh(other):  # somebody else's mesh, whose axes have other names
        np.testing.assert_array_equal(jax.jit(lambda x: constrain(x, 'fsdp', None))(x), x)


def test_put_batch_gives_each_device_its_rows():
    mesh = make_mesh(4, 2)
    rows = np.arange(24).reshape(8, 3)
    batch = put_batch({'x': rows, 'scale': np.float32(2), 'y': jnp.arange(8)}, mesh)
    assert batch['scale'].sharding.is_fully_replicated
    for shard in batch['x'].addressable_shards:
        at = np.argwhere(mesh.devices == shard.device)[0, 0]
        np.testing.assert_array_equal(shard.data, rows[2 * at : 2 * at + 2])
    again = put_batch(batch, mesh)
    assert again['x'] is batch['x']


def test_a_batch_that_does_not_divide_says_which_sizes_do():
    with pytest.raises(InputError, match=r'batch_size=6 does not divide .* multiple of 4'):
        put_batch({'x': np.zeros((6, 3))}, make_mesh(4, 2))
    check_batch(24, make_mesh(4, 2), microbatches=3)
    with pytest.raises(InputError, match=r'rows=16 in 3 microbatches .* multiple of 12'):
        check_batch(16, make_mesh(4, 2), microbatches=3, name='rows')


def test_neurons_of_a_batch_and_of_masks_are_split_over_tensor():
    mesh = make_mesh(4, 2)
    neurons = np.arange(8 * 3 * 6).reshape(8, 3, 6)
    batch = put_batch({'store': {'neurons': neurons}, 'logits': np.zeros((8, 6))}, mesh)
    assert batch['store']['neurons'].sharding.spec == P('fsdp', None, 'tensor')
    assert batch['logits'].sharding.spec == P('fsdp')
    odd = put_batch({'neurons': np.zeros((8, 5))}, mesh)
    assert odd['neurons'].sharding.spec == P('fsdp')  # 5 neurons do not divide over 2 devices
    masks = split_neurons({'teacher': neurons[:2]}, mesh)['teacher']
    assert masks.sharding.spec == P(None, None, 'tensor')
    for array, host in ((batch['store']['neurons'], neurons), (masks, neurons[:2])):
        for shard in array.addressable_shards:
            assert shard.data.shape[-1] == 3
            np.testing.assert_array_equal(shard.data, host[shard.index])


def test_replicate_keeps_values_and_keys():
    mesh = make_mesh(4, 2)
    tree = replicate({'x': np.arange(5), 'key': jax.random.key(3)}, mesh)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(tree))
    np.testing.assert_array_equal(tree['x'], np.arange(5))
    assert jax.random.uniform(tree['key']) == jax.random.uniform(jax.random.key(3))


def test_sharded_initialisation_draws_the_same_parameters():
    def init(key):
        return {'embed': {'weight': jax.random.normal(key, (16, 8))}}

    sharded = init_sharded(init, jax.random.key(1), make_mesh(4, 2))['embed']['weight']
    assert sharded.sharding.spec == P('tensor', 'fsdp')
    np.testing.assert_array_equal(sharded, init(jax.random.key(1))['embed']['weight'])
