"""A jitted function over many rows, a batch at a time: for evaluations and stored activations."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cdjax.parallel.mesh import FSDP, put_batch
from cdjax.parallel.multihost import in_order
from cdjax.parallel.preemption import heed_preemption
from cdjax.run.metrics import progress


def map_rows(
    function: Callable[[Any, Any], Any],
    constants: Any,
    rows: Any,
    *,
    mesh: Mesh,
    batch_size: int = 512,
    description: str | None = None,
) -> Any:
    """Applies a function to batches of rows and returns the rows of its results on the host.

    Args:
        function: `(constants, rows) -> results`, pytrees of arrays, rows leading in `rows` and
            `results`. It is jitted once for each function, mesh and shape, so pass one that
            lives as long as the program (not a fresh lambda).
        constants: what all batches share, such as a model; device arrays.
        rows: a pytree of host arrays `[N, ...]`, the same on every process.
        mesh: the mesh; rows are split over `fsdp`.
        batch_size: rows at once, rounded up to a multiple of the `fsdp` axis.
        description: shows a progress bar under this name.

    Returns:
        A pytree of NumPy arrays `[N, ...]`, the same on every process.
    """
    results = []
    for result, kept in _batches(
        _jitted(function, mesh), constants, rows, mesh, batch_size, description
    ):
        results.append(jax.tree.map(lambda x, kept=kept: _fetch(x)[:kept], result))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def mean_rows(
    function: Callable[[Any, Any], Any],
    constants: Any,
    rows: Any,
    *,
    mesh: Mesh,
    batch_size: int = 512,
    description: str | None = None,
) -> Any:
    """Returns the mean over all rows of what `map_rows` would return, float32, summed on device."""
    total = len(jax.tree.leaves(rows)[0])
    sums = None
    for result, _ in _batches(
        _summed(function, mesh), constants, rows, mesh, batch_size, description
    ):
        sums = result if sums is None else jax.tree.map(jnp.add, sums, result)
    return jax.tree.map(lambda x: _fetch(x) / total, sums)


def _batches(jitted, constants, rows, mesh, batch_size, description):
    """Yields the result of each batch and the number of its rows that count."""
    total = len(jax.tree.leaves(rows)[0])
    ways = mesh.shape[FSDP]
    size = -(-min(batch_size, max(total, 1)) // ways) * ways
    waiting = None
    with jax.set_mesh(mesh), progress(total, description or '', unit='row') as bar:
        bar.disable = bar.disable or description is None
        for start in range(0, total, size):
            heed_preemption()
            # The last batch is filled up with the last row, so that one shape compiles.
            index = np.arange(start, start + size)
            batch = jax.tree.map(lambda x, index=index: x[np.minimum(index, total - 1)], rows)
            kept = min(size, total - start)
            result = jitted(constants, put_batch(batch, mesh), put_batch(index < total, mesh))
            in_order(result)
            if waiting is not None:  # handed out while the devices work on its successor
                yield waiting
            waiting = result, kept
            bar.update(kept)
        yield waiting


@functools.lru_cache(maxsize=64)
def _jitted(function, mesh):
    # One process reads the parts of a result where they lie; of several, each needs the whole.
    everywhere = NamedSharding(mesh, PartitionSpec()) if jax.process_count() > 1 else None
    return jax.jit(lambda constants, rows, _: function(constants, rows), out_shardings=everywhere)


@functools.lru_cache(maxsize=64)
def _summed(function, mesh):
    def summed(constants, rows, counts):
        # A sum and no product, which an accelerator would round to bfloat16 or TF32.
        def total(x):
            counts_Nx1 = counts.reshape(-1, *(1,) * (x.ndim - 1))
            return jnp.sum(jnp.where(counts_Nx1, x.astype(jnp.float32), 0.0), axis=0)

        return jax.tree.map(total, function(constants, rows))

    return jax.jit(summed, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _fetch(x):
    return np.asarray(x if x.is_fully_addressable else x.addressable_data(0))
