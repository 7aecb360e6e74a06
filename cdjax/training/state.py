"""All that a training step changes, and where each array of it lives."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cdjax.parallel import mesh as mesh_lib


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

    def init(key):
        params_key, state_key = jax.random.split(key)
        params = init_params(params_key)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), state_key)

    shardings = state_shardings(jax.eval_shape(init, key), tx, mesh, rules)
    with jax.set_mesh(mesh):
        return jax.jit(init, out_shardings=shardings)(mesh_lib.replicate(key, mesh))


def state_of(
    model: Any, tx: optax.GradientTransformation, key: jax.Array, mesh: Mesh
) -> TrainState:
    """Returns the first state of a training that starts from a copy of a model on `mesh`.

    Parameters and moments are float32, whatever the model's are: a bfloat16 weight stands still
    under most steps of a fine-tuning, each below half of its last bit.
    """

    def start(model, key):
        params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), model)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), key)

    shardings = state_shardings(jax.eval_shape(start, model, key), tx, mesh)
    with jax.set_mesh(mesh):
        return jax.jit(start, out_shardings=shardings)(model, key)


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
