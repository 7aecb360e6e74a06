"""The blocks of a model one after the other: as a loop, or written out where they are few.

Both take `block(x, inputs_of_layer, read=None) -> (x, activations by site, cache of the layer)`,
and the inputs of all layers stacked.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.models.captures import Capture
from cdjax.models.config import LlamaConfig
from cdjax.models.positions import Positions, take_positions
from cdjax.models.sites import SITES

Taken = dict[str, jax.Array]


def run_unrolled(
    block: Callable,
    x_BxTxd: jax.Array,
    layer_inputs: Any,
    captures: dict[str, Capture],
    config: LlamaConfig,
    read: Positions | None,
) -> tuple[jax.Array, Taken, Any]:
    """Runs all blocks, each compiled for itself, the last one only where it is read.

    Args:
        block: see the module.
        x_BxTxd: the embeddings.
        layer_inputs: a pytree of arrays `[L, ...]`.
        captures: as `check_captures` returns them.
        config: the shape of the model.
        read: positions at which the last block is wanted; all if None.

    Returns:
        The last residual `[B, P, d]`, activations `[L', B, T', ...]`, and the caches `[L, ...]`.
    """
    # What is taken of few positions is written as it comes: stacked at the end, XLA would keep what
    # all positions of it are made of until then.
    few = {site: v for site, v in captures.items() if v.positions is not None or not v.layers}
    buffers = {k: _empty_buffer(v, config, x_BxTxd) for k, v in few.items() if not v.layers}
    takens, caches = [], []
    for n in range(config.num_layers):
        reads = {} if n < config.num_layers - 1 else {'read': read}
        x_BxTxd, taken, cache = block(x_BxTxd, _of_layer(layer_inputs, n), **reads)
        for site in sorted(few.keys() & taken.keys()):  # alike on all hosts, as in `_record`
            value, layers = taken[site], few[site].layers
            if n in layers:
                empty = jnp.zeros((len(layers), *value.shape), value.dtype)
                buffers[site] = buffers.get(site, empty).at[layers.index(n)].set(value)
        takens.append(taken)
        caches.append(cache)
    whole = {
        site: jnp.stack([takens[n][site] for n in capture.layers])
        for site, capture in captures.items()
        if site not in few
    }
    return x_BxTxd, whole | buffers, jax.tree.map(lambda *parts: jnp.stack(parts), *caches)


def run_loop(
    block: Callable,
    x_BxTxd: jax.Array,
    layer_inputs: Any,
    captures: dict[str, Capture],
    config: LlamaConfig,
    depth: int,
    last_residual: Callable[[jax.Array], Taken],
) -> tuple[jax.Array, Taken, Any]:
    """Runs the first `depth` blocks under one compilation.

    What is captured in all layers is stacked by the scan; of a part of the layers, a buffer that
    the scan carries holds no more than was asked for.

    Args:
        block: see the module.
        x_BxTxd: the embeddings.
        layer_inputs: a pytree of arrays `[L, ...]`.
        captures: as `check_captures` returns them.
        config: the shape of the model.
        depth: blocks to run, 0 to L.
        last_residual: returns what is captured of the input of a block that does not run.

    Returns:
        As `run_unrolled`, the last residual `[B, T, d]`.
    """
    every = depth == config.num_layers
    whole = [k for k, v in captures.items() if every and v.layers == tuple(range(depth))]
    partial = {k: v for k, v in captures.items() if k not in whole}
    buffers = {k: _empty_buffer(v, config, x_BxTxd) for k, v in partial.items()}
    slots = {k: _slots_of_layers(v, config) for k, v in partial.items()}
    inputs = slots, layer_inputs

    def step(carry, inputs):
        (x_BxTxd, buffers), (slots, layer_inputs) = carry, inputs
        x_BxTxd, taken, cache = block(x_BxTxd, layer_inputs)
        buffers, rest = _record(buffers, taken, slots)
        return (x_BxTxd, buffers), (rest, cache)

    if every:
        carry, (activations, cache) = jax.lax.scan(step, (x_BxTxd, buffers), inputs)
        return carry[0], {**activations, **carry[1]}, cache
    cache = None
    if depth:
        # By index, for a slice of the stacked weights would be a copy of them.
        by_index = lambda carry, n: step(carry, _of_layer(inputs, n))
        carry, (_, cache) = jax.lax.scan(by_index, (x_BxTxd, buffers), jnp.arange(depth))
        x_BxTxd, buffers = carry
    slots_of_next = {site: slots_L[depth] for site, slots_L in slots.items()}
    buffers, _ = _record(buffers, last_residual(x_BxTxd), slots_of_next)
    return x_BxTxd, buffers, cache


def _of_layer(tree: Any, n: int | jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[n], tree)


def _empty_buffer(capture: Capture, config: LlamaConfig, x_BxTxd: jax.Array) -> jax.Array:
    """Returns zeros for what is captured of a part of the layers, `[L', B, T', ...]`."""
    value = jax.ShapeDtypeStruct(
        (*x_BxTxd.shape[:2], *SITES[capture.site].shape(config)), x_BxTxd.dtype
    )
    taken = jax.eval_shape(lambda x: take_positions(x, capture.positions), value)
    return jnp.zeros((len(capture.layers), *taken.shape), taken.dtype)


def _slots_of_layers(capture: Capture, config: LlamaConfig) -> jax.Array:
    """Returns where each layer stands in the result of a capture, int32 `[L]`, -1 for nowhere."""
    slots = np.full(config.num_layers, -1, np.int32)
    slots[list(capture.layers)] = np.arange(len(capture.layers))
    return jnp.asarray(slots)


def _record(buffers: Taken, taken: Taken, slots: dict[str, jax.Array]) -> tuple[Taken, Taken]:
    """Writes what a layer has given into the buffers; returns these, and what has no buffer.

    Args:
        buffers: `[L', B, T', ...]` by site.
        taken: `[B, T', ...]` by site.
        slots: where the layer stands in each buffer; -1 where it is not wanted.
    """

    def written(buffer, value, slot):
        at = jnp.maximum(slot, 0)
        old = jax.lax.dynamic_index_in_dim(buffer, at, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(buffer, jnp.where(slot < 0, old, value), at, 0)

    both = buffers.keys() & taken.keys()
    updated = {site: written(buffers[site], taken[site], slots[site]) for site in sorted(both)}
    return buffers | updated, {site: taken[site] for site in taken if site not in buffers}
