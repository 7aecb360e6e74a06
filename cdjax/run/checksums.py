"""Checksums of arrays where they lie, by the names of the leaves of a pytree."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cdjax.parallel.mesh import path_name
from cdjax.parallel.multihost import in_order

# NumPy sums up so few elements in less than the compilation of a program for their shape takes.
AT_HAND = 2**16


def tree_names(tree: Any) -> list[str]:
    """Returns the names of the leaves of a pytree, in order: keys joined by '.', no '.value'."""
    return [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def checksums(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    """Returns a checksum of each array: 16 hexadecimal digits that no sharding changes.

    The bits of an array are cut into words w_i of at most 32 bits, and the checksum is a sum
    modulo 2^32 of h(w_i, i), twice with different h. Integer sums do not depend on their order,
    so it is computed where the shards are, and is the same on every mesh and on any number of
    hosts. For a fixed position i, h is a bijection of the word: any damage inside one word, a
    single flipped bit above all, changes one term and hence the sum, with certainty. Other
    damage, exchanged blocks included, goes unseen with a probability of about 2^-64.

    Args:
        arrays: name → array of any shape and dtype; those that hosts have parts of are of one mesh.

    Returns:
        name → checksum.
    """
    small = {name: array for name, array in arrays.items() if array.size <= AT_HAND}
    sums = {name: _fold_at_hand(values) for name, values in _at_hand(small).items()}
    for name, array in arrays.items():
        if name in sums:
            continue
        # One small program for each shape rather than a large one for all leaves: it compiles
        # in a fraction of the time, and the moments of an optimizer share their parameter's.
        sums[name] = in_order(jax.jit(_fold, out_shardings=_everywhere(array))(array))
    return {name: ''.join(f'{int(half):08x}' for half in x) for name, x in _fetch(sums).items()}


def _at_hand(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Returns the values of arrays; what hosts have parts of, one program brings to all."""
    apart = {
        name: array
        for name, array in arrays.items()
        if not (array.is_fully_addressable or array.is_fully_replicated)
    }
    everywhere = {name: _everywhere(array) for name, array in apart.items()}
    whole = in_order(jax.jit(_as_it_is, out_shardings=everywhere)(apart)) if apart else {}
    return _fetch({**arrays, **whole})


def _as_it_is(tree):
    return tree


def _everywhere(array: jax.Array) -> NamedSharding | None:
    mesh = getattr(array.sharding, 'mesh', None)
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def _fetch(arrays: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    for x in arrays.values():
        if isinstance(x, jax.Array):
            x.copy_to_host_async()
    return {name: np.asarray(x) for name, x in arrays.items()}


def _fold(x: jax.Array) -> jax.Array:
    """Returns the two sums of an array, uint32 [2]."""
    words = _words(x)
    index = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        iota = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index = index + iota * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.stack(_sums(words, index))


def _fold_at_hand(values: np.ndarray) -> np.ndarray:
    """Returns what `_fold` does, by NumPy."""
    values = values.ravel()
    words = values.view(f'u{min(values.itemsize, 4)}').astype(np.uint32)
    return np.array(_sums(words, np.arange(words.size, dtype=np.uint32)))


def _sums(words, index):
    """Returns the two sums of words, uint32, at their positions."""
    first = _mix(words ^ _mix(index ^ np.uint32(0x9E3779B9)))
    second = _mix(words + _mix(index + np.uint32(0x85EBCA6B)))
    return first.sum(dtype=np.uint32), second.sum(dtype=np.uint32)


def _words(x: jax.Array) -> jax.Array:
    """Returns the bits of `x` as uint32, narrower dtypes one element a word."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    bits = jnp.dtype(x.dtype).itemsize * 8
    if bits > 32:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    unsigned = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[bits]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(h):
    """MurmurHash3's finaliser: a bijection of 32-bit words in which every bit moves the rest."""
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
