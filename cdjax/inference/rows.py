"""A jitted function of a model over many rows, as many at a time as hold so many tokens."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cdjax.errors import InputError
from cdjax.parallel.mesh import FSDP, one_device, put_batch
from cdjax.parallel.multihost import in_order
from cdjax.parallel.preemption import heed_preemption
from cdjax.run.options import TOKENS_PER_PASS
from cdjax.run.progress import progress

# The column that holds the class of each row, beside those that a function reads.
_CLASSES = 'class of the row'


def rows_per_pass(
    total: int, length: int, ways: int, tokens_per_pass: int = TOKENS_PER_PASS
) -> int:
    """Returns the rows of a pass, a multiple of `ways`: at least one for each, at most all.

    The last pass is filled up with rows that do not count. Passes are full, so that data sets share
    a compilation, unless that made a quarter more rows than there are: 600 are two passes of 300,
    for two of 585 would cost 1170.

    Args:
        total: rows that there are (N).
        length: tokens of a row, padding included (T).
        ways: devices over which rows are split, the `fsdp` axis of the mesh.
        tokens_per_pass: tokens at once, over all devices.

    Raises:
        InputError: less than one token.
    """
    if tokens_per_pass < 1:
        raise InputError(f'tokens_per_pass={tokens_per_pass}: at least 1 is needed')
    of_each = max(tokens_per_pass // (length * ways), 1)
    passes = -(-max(total, 1) // (of_each * ways))
    if passes * of_each * ways <= 1.25 * total:
        return of_each * ways
    return -(-max(total, 1) // (passes * ways)) * ways


def map_rows(
    function: Callable[[Any, Any], Any],
    constants: Any,
    rows: Mapping[str, np.ndarray],
    *,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> Any:
    """Applies a function to batches of rows and returns the rows of its results on the host.

    Args:
        function: `(constants, rows) -> results`, pytrees of arrays, rows leading in `rows` and
            `results`. It is jitted once for each function, mesh and shape, so pass one that
            lives as long as the program (not a fresh lambda).
        constants: what all batches share, such as a model; device arrays.
        rows: host arrays `[N, ...]` by name, the same on every process; `tokens [N, T]` is one.
        mesh: the mesh, rows are split over `fsdp`; one device if None.
        tokens_per_pass: see `rows_per_pass`.
        description: shows a progress bar under this name.

    Returns:
        A pytree of NumPy arrays `[N, ...]`, the same on every process.
    """
    results = []
    mesh = one_device() if mesh is None else mesh
    jitted = jit_rows(function, mesh)
    for result, kept in _batches(jitted, constants, rows, mesh, tokens_per_pass, description):
        results.append(jax.tree.map(lambda x, kept=kept: _fetch(x)[:kept], result))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def mean_rows(
    function: Callable[[Any, Any], Any],
    constants: Any,
    rows: Mapping[str, np.ndarray],
    *,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> Any:
    """Returns the mean over all rows of what `map_rows` would return, float32, summed on device."""
    total = len(rows['tokens'])
    sums = None
    mesh = one_device() if mesh is None else mesh
    summed = jit_sum(function, mesh)
    for result, _ in _batches(summed, constants, rows, mesh, tokens_per_pass, description):
        sums = result if sums is None else jax.tree.map(jnp.add, sums, result)
    return jax.tree.map(lambda x: _fetch(x) / total, sums)


def class_means(
    function: Callable[[Any, Any], Any],
    constants: Any,
    rows: Mapping[str, np.ndarray],
    classes: np.ndarray,
    num_classes: int,
    *,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> Any:
    """Returns the means of what `map_rows` would return over the rows of each class.

    One pass over all rows under one compilation, summed on device.

    Args:
        function: as for `map_rows`.
        constants: as there.
        rows: N rows, as there.
        classes: int `[N]`, the class of each row.
        num_classes: K.
        mesh: as for `map_rows`.
        tokens_per_pass: as there.
        description: as there.

    Returns:
        float32 `[K, ...]`. A class without a row gets the mean over all rows.
    """
    mesh = one_device() if mesh is None else mesh
    summed = _summed_by_class(function, mesh, num_classes)
    rows = {**rows, _CLASSES: np.asarray(classes, np.int32)}
    sums = None
    for result, _ in _batches(summed, constants, rows, mesh, tokens_per_pass, description):
        sums = result if sums is None else jax.tree.map(jnp.add, sums, result)
    counts = np.bincount(classes, minlength=num_classes)

    def means(x):
        x = _fetch(x)
        counts_Kx1 = counts.reshape(-1, *(1,) * (x.ndim - 1))
        overall = x.sum(axis=0) / len(classes)
        return np.where(counts_Kx1 > 0, x / np.maximum(counts_Kx1, 1), overall).astype(np.float32)

    return jax.tree.map(means, sums)


def _batches(jitted, constants, rows, mesh, tokens_per_pass, description):
    """Yields the result of each batch and the number of its rows that count."""
    total, length = rows['tokens'].shape
    size = rows_per_pass(total, length, mesh.shape[FSDP], tokens_per_pass)
    waiting = None
    bar = progress(total, description or '', unit='row', stage=False)
    with jax.set_mesh(mesh), bar:
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
def jit_rows(function: Callable[[Any, Any], Any], mesh: Mesh, several: bool | None = None):
    """Returns the jitted `(constants, rows, counts) -> results` of `map_rows`.

    Args:
        function: see `map_rows`.
        mesh: the mesh.
        several: whether there are several processes, of which each needs the whole of a result;
            one reads its parts where they lie. As it is here if None.
    """
    several = jax.process_count() > 1 if several is None else several
    everywhere = NamedSharding(mesh, PartitionSpec()) if several else None
    return jax.jit(lambda constants, rows, _: function(constants, rows), out_shardings=everywhere)


@functools.lru_cache(maxsize=64)
def jit_sum(function: Callable[[Any, Any], Any], mesh: Mesh):
    """Returns the jitted `(constants, rows, counts) -> sums` of `mean_rows`.

    `counts` bool `[B]` says which rows of a batch count.
    """

    def summed(constants, rows, counts):
        # A sum and no product, which an accelerator would round to bfloat16 or TF32.
        def total(x):
            counts_Nx1 = counts.reshape(-1, *(1,) * (x.ndim - 1))
            return jnp.sum(jnp.where(counts_Nx1, x.astype(jnp.float32), 0.0), axis=0)

        return jax.tree.map(total, function(constants, rows))

    return jax.jit(summed, out_shardings=NamedSharding(mesh, PartitionSpec()))


@functools.lru_cache(maxsize=64)
def _summed_by_class(function, mesh, num_classes):
    def summed(constants, rows, counts):
        of_class_BxK = (rows[_CLASSES][:, None] == jnp.arange(num_classes)[None]) & counts[:, None]
        # Accelerators would round the products of a float32 sum to bfloat16 or TF32.
        total = lambda x: jnp.einsum(
            'bk,b...->k...',
            of_class_BxK.astype(jnp.float32),
            x.astype(jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )
        return jax.tree.map(total, function(constants, rows))

    return jax.jit(summed, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _fetch(x):
    return np.asarray(x if x.is_fully_addressable else x.addressable_data(0))
