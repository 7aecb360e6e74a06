"""All that a training step changes, and where each array of it lives."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cdjax.models.config import LlamaConfig
from cdjax.models.llama import INIT_STD, Llama
from cdjax.parallel import mesh as mesh_lib
from cdjax.training.optimizer import OptimizerConfig, make_optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a training step changes.

    Attributes:
        step: int32 scalar, the steps done.
        params: the parameters, any pytree.
        opt_state: the state of the optimizer.
        key: a random key; a step uses `jax.random.fold_in(state.key, state.step)`.
        memory: what a step hands to the next beside these, any pytree, replicated.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    memory: Any = ()


def init_state(
    init_params: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    key: jax.Array,
    mesh: Mesh | None = None,
    rules: mesh_lib.Rules | None = None,
) -> TrainState:
    """Makes the first state, each array on the devices where it lives.

    Args:
        init_params: makes the parameters from a key.
        tx: the optimizer.
        key: a random key; one half goes to the parameters, the other into the state.
        mesh: the mesh; one device if None.
        rules: sharding rules of the parameters, those of Llama if None.

    Returns:
        The state at step 0, the same values on every mesh.
    """
    mesh = mesh_lib.one_device() if mesh is None else mesh
    init = jit_init(init_params, tx, mesh, rules)
    with jax.set_mesh(mesh):
        return init(mesh_lib.replicate(key, mesh))


def model_state(
    start: Llama | LlamaConfig,
    optimizer: OptimizerConfig,
    key: jax.Array,
    mesh: Mesh,
    *,
    init_std: float = INIT_STD,
) -> TrainState:
    """Returns the first state of a training of a model, by one program for all seeds.

    Parameters and moments are float32, whatever the model's are: a bfloat16 weight stands still
    under most steps of a fine-tuning, each below half of its last bit.

    Args:
        start: the model to start from, on `mesh`, which is copied; or a shape, for random weights.
        optimizer: the optimizer.
        key: a random key.
        mesh: the mesh.
        init_std: deviation of random weights.
    """
    with jax.set_mesh(mesh):
        if isinstance(start, LlamaConfig):
            random_start = _random_start(start, init_std, optimizer, mesh)
            return random_start(mesh_lib.replicate(key, mesh))
        leaves, structure = jax.tree.flatten(start)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        return _copied_start(structure, shapes, optimizer, mesh)(start, key)


@functools.lru_cache(maxsize=16)
def _random_start(config, init_std, optimizer, mesh):
    init_params = lambda key: Llama(config, key, init_std=init_std)
    return jit_init(init_params, make_optimizer(optimizer), mesh, None)


@functools.lru_cache(maxsize=16)
def _copied_start(structure, shapes, optimizer, mesh):
    tx = make_optimizer(optimizer)

    def start(model, key):
        params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), model)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), key)

    model = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*of_leaf) for of_leaf in shapes])
    state = jax.eval_shape(start, model, jax.random.key(0))
    return jax.jit(start, out_shardings=state_shardings(state, tx, mesh))


def jit_init(
    init_params: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rules: mesh_lib.Rules | None = None,
) -> Callable[[jax.Array], TrainState]:
    """Returns the jitted `key -> state` of `init_state`, for a key that is on the mesh."""

    def init(key):
        params_key, state_key = jax.random.split(key)
        params = init_params(params_key)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), state_key)

    with jax.set_mesh(mesh):  # like the call, which finds the trace
        state = jax.eval_shape(init, jax.random.key(0))
    return jax.jit(init, out_shardings=state_shardings(state, tx, mesh, rules))


def state_shardings(
    state: TrainState,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rules: mesh_lib.Rules | None = None,
) -> TrainState:
    """Returns the shardings of a state, or of its shapes; `rules` are those of Llama if None."""
    rules = mesh_lib.LLAMA_RULES if rules is None else rules
    of_params = mesh_lib.parameter_shardings(state.params, mesh, rules)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return TrainState(
        step=everywhere,
        params=of_params,
        opt_state=mesh_lib.optimizer_shardings(tx, state.opt_state, of_params, mesh),
        key=everywhere,
        memory=jax.tree.map(lambda _: everywhere, state.memory),
    )
