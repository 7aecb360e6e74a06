"""One mesh (`fsdp`, `tensor`) for all training and evaluation, and the shardings on it.

Axes are Auto: GSPMD propagates shardings through the program, and `constrain` pins the few
places where it needs a hint. With Explicit axes (the default of `jax.make_mesh`) a
tensor-parallel `down` projection raises ShardingTypeError.

Everything works on names of parameters (`layers.mlp.down.weight`), as `tree_names` gives them,
so that rules do not depend on how a module library spells its paths.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cdjax.errors import InputError

FSDP, TENSOR = 'fsdp', 'tensor'

# The first pattern found in a parameter's name decides. Matrices are [in, out], layers stacked
# in front: [L, in, out]. Megatron's split over `tensor` (columns of q/k/v/gate/up, rows of
# o/down: one all-reduce per sub-layer), the other side over `fsdp`.
LLAMA_RULES: tuple[tuple[str, P], ...] = (
    (r'embed\.weight$', P(TENSOR, FSDP)),
    (r'lm_head\.weight$', P(FSDP, TENSOR)),
    (r'attention\.[qkv]\.weight$', P(None, FSDP, TENSOR)),
    (r'attention\.o\.weight$', P(None, TENSOR, FSDP)),
    (r'mlp\.(gate|up)\.weight$', P(None, FSDP, TENSOR)),
    (r'mlp\.down\.weight$', P(None, TENSOR, FSDP)),
    (r'norm\.weight$', P()),
)

Rules = Sequence[tuple[str, P]]

# Arrays of a batch whose last axis counts neurons.
_WIDE = re.compile(r'(neurons|activations)$')


def path_name(path: tuple) -> str:
    """Returns the name of a leaf, keys joined by '.', for a key path of `jax.tree_util`.

    NNX paths end in `.value`, which is Flax's business and not a checkpoint's: it is left out.
    """
    value = jax.tree_util.GetAttrKey('value')
    keys = path[:-1] if len(path) > 1 and path[-1] == value else path
    return jax.tree_util.keystr(keys, simple=True, separator='.')


def make_mesh(fsdp: int = -1, tensor: int = 1, *, devices: Sequence | None = None) -> Mesh:
    """Returns the mesh of a run: axes ('fsdp', 'tensor'), both Auto.

    Args:
        fsdp: devices over which batches, and one side of each matrix, are split; -1 takes all
            that `tensor` leaves.
        tensor: devices over which neurons and heads are split.
        devices: the devices to use; all devices of all processes if None.

    Raises:
        InputError: the two numbers do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    if tensor < 1 or count % tensor:
        raise InputError(
            f'tensor={tensor} does not divide the {count} devices of this run: '
            f'choose one of {_divisors(count)}'
        )
    if fsdp == -1:
        fsdp = count // tensor
    if fsdp < 1 or fsdp * tensor != count:
        raise InputError(
            f'fsdp={fsdp} times tensor={tensor} is not the number of devices ({count}): '
            f'choose fsdp=-1 or {count // tensor}'
        )
    auto = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((fsdp, tensor), (FSDP, TENSOR), axis_types=auto, devices=devices)


@functools.cache
def one_device() -> Mesh:
    """Returns the mesh of the first device of this process: what `mesh=None` stands for."""
    return make_mesh(devices=jax.local_devices()[:1])


def _divisors(count: int) -> list[int]:
    return [d for d in range(1, count + 1) if count % d == 0]


def _fitting(spec: Sequence[str | None], shape: Sequence[int], sizes: dict[str, int]) -> P:
    """Drops the axes of `spec` that the mesh lacks or that do not divide their dimension."""
    axes = [
        axis if axis in sizes and size % sizes[axis] == 0 else None
        for axis, size in zip(spec, shape, strict=False)
    ]
    while axes and axes[-1] is None:
        axes.pop()
    return P(*axes)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins the sharding of `x` under the ambient mesh; the identity where there is none.

    Args:
        x: any array.
        *axes: the mesh axis of each dimension, None for a dimension that is not split; missing
            ones count as None. An axis that the mesh lacks, or whose size does not divide the
            dimension, is dropped for that dimension.

    Returns:
        `x`, with the same values.
    """
    assert len(axes) <= x.ndim, f'{len(axes)} axes for an array of rank {x.ndim}'
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {
        name: mesh.shape[name]
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto  # inside shard_map an axis is Manual and already split
    }
    if not sizes:
        return x
    return jax.lax.with_sharding_constraint(x, _fitting(axes, x.shape, sizes))


def parameter_shardings(abstract_tree: Any, mesh: Mesh, rules: Rules = LLAMA_RULES) -> Any:
    """Returns a tree of NamedSharding for a tree of parameters (arrays or their shapes).

    Args:
        abstract_tree: a pytree of arrays or ShapeDtypeStructs.
        mesh: the mesh to shard over.
        rules: (pattern, spec) pairs; the first pattern that `re.search` finds in the name of a
            parameter decides. Axes that do not divide a dimension are dropped for it, so that
            small models run on every mesh.

    Raises:
        ValueError: no rule matches a parameter (all such are named).
    """
    compiled = [(re.compile(pattern), spec) for pattern, spec in rules]
    unmatched = []

    def sharding(path, leaf):
        name = path_name(path)
        for pattern, spec in compiled:
            if pattern.search(name):
                assert len(spec) <= leaf.ndim, f'{name} has shape {leaf.shape}, its rule {spec}'
                return NamedSharding(mesh, _fitting(spec, leaf.shape, dict(mesh.shape)))
        unmatched.append(name)
        return None

    shardings = jax.tree_util.tree_map_with_path(sharding, abstract_tree)
    if unmatched:
        raise ValueError(
            f'no sharding rule matches {", ".join(unmatched)}: add one to the rules '
            f'({", ".join(pattern for pattern, _ in rules)})'
        )
    return shardings


def optimizer_shardings(
    tx: optax.GradientTransformation, abstract_opt: Any, param_shardings: Any, mesh: Mesh
) -> Any:
    """Returns the shardings of an optimizer state: moments like their parameter, rest replicated.

    `jax.jit(tx.init)(params)` would lose the shardings of the parameters, so these are to be
    its `out_shardings`.

    Args:
        tx: the gradient transformation.
        abstract_opt: `jax.eval_shape(tx.init, params)`.
        param_shardings: a tree of NamedSharding, as `parameter_shardings` returns.
        mesh: the mesh.
    """
    return optax.tree_utils.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        abstract_opt,
        param_shardings,
        transform_non_params=lambda _: NamedSharding(mesh, P()),
    )


def batch_sharding(mesh: Mesh, name: str, shape: Sequence[int]) -> NamedSharding:
    """Returns the sharding of one array of a batch: rows over 'fsdp', neurons over 'tensor'.

    Args:
        mesh: the mesh.
        name: of the array in its batch; where it ends in `neurons` or `activations`, the last axis
            counts neurons and is split over 'tensor'.
        shape: of the array, rows first; () for a scalar, which is replicated.
    """
    if not shape:
        return NamedSharding(mesh, P())
    wide = len(shape) > 1 and _WIDE.search(name)
    axes = (FSDP, *(None,) * (len(shape) - 2), TENSOR) if wide else (FSDP,)
    return NamedSharding(mesh, _fitting(axes, shape, dict(mesh.shape)))


def put_batch(batch: Any, mesh: Mesh, *, of_steps: bool = False) -> Any:
    """Puts a batch on the mesh as `batch_sharding` says.

    Every process holds the same global batch in host memory (batches are a pure function of
    seed and step) and copies only the part of its own devices to them.

    Args:
        batch: a pytree of arrays [B, ...], the same on every process.
        mesh: the mesh.
        of_steps: the arrays are those of several steps, [M, B, ...].

    Returns:
        The tree as global arrays. Leaves that already lie on this mesh are left alone.

    Raises:
        InputError: the number of rows does not divide over 'fsdp'.
    """

    def put(path, leaf):
        if isinstance(leaf, jax.Array) and getattr(leaf.sharding, 'mesh', None) == mesh:
            return leaf
        shape = np.shape(leaf)[of_steps:]
        if shape:
            check_batch(shape[0], mesh)
        sharding = batch_sharding(mesh, path_name(path), shape)
        if of_steps:
            sharding = NamedSharding(mesh, P(None, *sharding.spec))
        return _put(leaf, sharding)

    return jax.tree_util.tree_map_with_path(put, batch)


def check_batch(rows: int, mesh: Mesh, *, microbatches: int = 1, name: str = 'batch_size') -> None:
    """Raises InputError where a batch does not divide over the mesh, or a microbatch of it.

    Args:
        rows: of the batch.
        mesh: the mesh.
        microbatches: parts of the batch that are computed one after the other.
        name: of the flag to name.
    """
    ways = mesh.shape[FSDP]
    if rows % (ways * microbatches):
        parts = f' in {microbatches} microbatches' if microbatches > 1 else ''
        raise InputError(
            f'{name}={rows}{parts} does not divide over the {ways} devices of mesh axis fsdp: '
            f'choose a multiple of {ways * microbatches}'
        )


def neurons_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """Returns the sharding of what has one entry a neuron: the last axis over 'tensor'."""
    axes = (*(None,) * (len(shape) - 1), TENSOR)
    return NamedSharding(mesh, _fitting(axes, shape, dict(mesh.shape)))


def split_neurons(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays that every process holds alike on the mesh, their last axis over 'tensor'.

    For what has one entry a neuron and is no parameter: masks, means, the shift of an edit.
    """
    return jax.tree.map(lambda leaf: _put(leaf, neurons_sharding(mesh, np.shape(leaf))), tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a tree that every process holds alike on all devices of the mesh."""
    return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, P())), tree)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Puts one host array, the same on every process, under a sharding over all of them."""
    if isinstance(leaf, jax.Array):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = _put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def init_sharded(init: Callable[[jax.Array], Any], key: jax.Array, mesh: Mesh) -> Any:
    """Runs `init(key)` such that each parameter is made on the devices where it lives.

    Args:
        init: makes a pytree of parameters from a key.
        key: a random key.
        mesh: the mesh, over which they are split by `LLAMA_RULES`.

    Returns:
        The parameters, the same values on every mesh.
    """
    shardings = parameter_shardings(jax.eval_shape(init, key), mesh)
    return jax.jit(init, out_shardings=shardings)(key)
