"""The leaves of a state by name, and what a checkpoint stores of each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.run.checksums import tree_names


def is_key(x: Any) -> bool:
    """Tells whether a leaf is a typed random key."""
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Returns name → leaf."""
    leaves = dict(zip(tree_names(tree), jax.tree.leaves(tree), strict=True))
    assert len(leaves) == len(jax.tree.leaves(tree)), 'two leaves of the tree have one name'
    return leaves


def named_arrays(tree: Any) -> dict[str, jax.Array]:
    """Returns name → array; typed random keys become their raw data."""
    arrays = {name: jnp.asarray(leaf) for name, leaf in leaves_by_name(tree).items()}
    return {n: jax.random.key_data(x) if is_key(x) else x for n, x in arrays.items()}


def as_stored(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns what is stored of a leaf: its shape, dtype and sharding, raw data for a key."""
    sharding = getattr(leaf, 'sharding', None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if not hasattr(leaf, 'dtype'):
        leaf = np.asarray(leaf)
    if is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def rekey(array: jax.Array, like: Any) -> jax.Array:
    """Turns raw data back into a typed random key where `like` is one."""
    if not (hasattr(like, 'dtype') and is_key(like)):
        return array
    impl = []  # key_impl takes no ShapeDtypeStruct, but it takes a tracer
    jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(array, impl=impl[0])


def is_same(saved: dict[str, Any] | None, want: jax.ShapeDtypeStruct) -> bool:
    """Tells whether what was saved of a leaf has the shape and dtype that are wanted."""
    return (
        saved is not None
        and tuple(saved['shape']) == want.shape
        and saved['dtype'] == str(want.dtype)
    )


def describe(leaf: dict[str, Any] | jax.ShapeDtypeStruct | None) -> str:
    """Returns dtype and shape of a leaf, saved or wanted, for messages."""
    if leaf is None:
        return 'absent'
    shape, dtype = (
        (leaf['shape'], leaf['dtype']) if isinstance(leaf, dict) else (leaf.shape, leaf.dtype)
    )
    return f'{dtype}{list(shape)}'
