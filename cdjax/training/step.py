"""How training steps are compiled, and several of them dispatched as one."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.parallel.mesh import put_batch

# A dispatch costs the host about a millisecond. Steps of so few FLOPs a device take no more than a
# tenth of a second on the core of a CPU, and less than the dispatch on an accelerator.
SMALL_STEP = 1e10
AT_ONCE = 10


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of several steps.

    Attributes:
        rows: a pytree of arrays `[M, B, ...]`.
        count: int32 scalar, how many of the M there are; the others are not looked at.
    """

    rows: Any
    count: jax.Array | np.int32


def steps_at_once(flops: float, mesh: Mesh) -> int:
    """Returns how many steps to dispatch as one: several of small ones.

    Args:
        flops: of a step, over all devices.
        mesh: the mesh.
    """
    return AT_ONCE if flops / mesh.devices.size < SMALL_STEP else 1


def several_steps(
    step: Callable[..., tuple[Any, Any]], at_once: int
) -> Callable[..., tuple[Any, Any]]:
    """Returns a step that does up to `at_once` of them: `(state, Batches, ...)`.

    One program, whatever the number: a run that stops anywhere and goes on computes the same bits.

    Args:
        step: `(state, batch, ...) -> (state, metrics)`, a pure function; metrics are scalars.
        at_once: M.

    Returns:
        A function of that name, whose metrics are `[M]`; `step` itself where `at_once` is 1.
    """
    if at_once == 1:
        return step
    step = jax.jit(step, inline=True)  # traced once, for its metrics and for the loop

    @functools.wraps(step)
    def steps(state, batches: Batches, *args):
        batch_of = lambda n: jax.tree.map(lambda x: x[n], batches.rows)

        def one(n, carry):
            state, found = carry
            state, metrics = step(state, batch_of(n), *args)
            return state, jax.tree.map(lambda all_M, x: all_M.at[n].set(x), found, metrics)

        _, metrics = jax.eval_shape(lambda: step(state, batch_of(0), *args))
        empty = jax.tree.map(lambda x: jnp.zeros((at_once, *x.shape), x.dtype), metrics)
        return jax.lax.fori_loop(0, batches.count, one, (state, empty))

    return steps


def shared_step(
    jit: Callable[..., Callable[..., Any]],
    make: Callable[[Any], Callable[..., Any]],
    config: Hashable,
    state: Any,
    at_once: int,
) -> Callable[..., Any]:
    """Returns the compiled `several_steps(make(config), at_once)`, one and the same for all alike.

    Trainings that differ in seeds and arrays run under one compilation so.

    Args:
        jit: `jit_step`.
        make: config → step, a function of a module.
        config: what the step reads; what it does not, such as a seed, is the same for all.
        state: a state, whose shapes and shardings are those of the step's.
        at_once: see `several_steps`.
    """
    leaves, structure = jax.tree.flatten(state)
    shapes = tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
    return _shared_step(jit, make, config, at_once, structure, shapes)


@functools.lru_cache(maxsize=16)
def _shared_step(jit, make, config, at_once, structure, shapes):
    leaves = [jax.ShapeDtypeStruct(shape, dtype, sharding=at) for shape, dtype, at in shapes]
    return jit(several_steps(make(config), at_once), jax.tree.unflatten(structure, leaves))


def put_batches(batches: Sequence[Any], at_once: int, mesh: Mesh) -> Batches:
    """Puts the batches of up to `at_once` steps on the mesh; see `put_batch`."""
    filled = [*batches, *[batches[-1]] * (at_once - len(batches))]
    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
    return Batches(put_batch(rows, mesh, of_steps=True), np.int32(len(batches)))


def jit_step(step: Callable[..., tuple[Any, Any]], state: Any) -> Callable[..., tuple[Any, Any]]:
    """Compiles `step(state, batch, ...) -> (state, metrics)` with a donated state.

    The new state is given the shardings of the old one. Left to the partitioner they may come
    out different, which compiles the program a second time and lets the state drift from the
    mesh's rules.

    Args:
        step: a pure function.
        state: a pytree of arrays or of ShapeDtypeStructs, with shardings.

    Returns:
        The jitted step.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
