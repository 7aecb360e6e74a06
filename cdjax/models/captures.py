"""Which activations a call of the model returns: sites, layers and positions."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.errors import InputError
from cdjax.models.config import LlamaConfig
from cdjax.models.positions import Positions, check_positions, take_positions
from cdjax.models.sites import RESIDUAL, SITES


@dataclasses.dataclass(frozen=True, eq=False)
class Capture:
    """Activations to return, `[L', B, T', ...]`; only these are ever stored.

    Attributes:
        site: a key of `SITES`.
        layers: L' different layers, in the order of the result; all of them where None.
        positions: of T; all of them where None. A tuple or range for all rows (static; negative
            ones count from the end of the padded row), or an int array `[B]` or `[B, P]` with
            positions for each row, of which `[B]` gives one (T' = 1).
    """

    site: str
    layers: tuple[int, ...] | None = None
    positions: Positions | None = None


def check_captures(
    captures: Sequence[str | Capture],
    positions: Positions | None,
    config: LlamaConfig,
    batch: int,
    length: int,
) -> dict[str, Capture]:
    """Returns the captures of a call by site, their layers written out.

    Args:
        captures: captures, or sites that are wanted in all layers.
        positions: those of the sites that come without any.
        config: the shape of the model.
        batch: rows of the call (B).
        length: positions of the call (T).

    Raises:
        InputError: an unknown site, one that is named twice, layers or positions that are not
            there.
    """
    checked = {}
    for capture in captures:
        if isinstance(capture, str):
            capture = Capture(capture, positions=positions)
        site, layers = SITES[capture.site].key, capture.layers
        if site in checked:
            raise InputError(f'{site!r} is captured twice: name its layers in one Capture')
        layers = tuple(range(config.num_layers)) if layers is None else tuple(layers)
        outside = [n for n in layers if not 0 <= n < config.num_layers]
        if outside or len(set(layers)) < len(layers):
            raise InputError(
                f'captured layers of {site!r} are {layers}: give different ones of 0 to '
                f'{config.num_layers - 1}'
            )
        if capture.positions is not None:
            what = f'the capture of {site!r}'
            check_positions(capture.positions, batch, length, what, masks=False)
        checked[site] = Capture(site, layers, capture.positions)
    return checked


def blocks_needed(captures: dict[str, Capture]) -> int:
    """Returns how many blocks must run for captures alone: none for the embeddings."""
    return max(
        (layer + (site != RESIDUAL.key) for site, c in captures.items() for layer in c.layers),
        default=0,
    )


def empty_buffer(capture: Capture, config: LlamaConfig, x_BxTxd: jax.Array) -> jax.Array:
    """Returns zeros for what is captured of a part of the layers, `[L', B, T', ...]`."""
    value = jax.ShapeDtypeStruct(
        (*x_BxTxd.shape[:2], *SITES[capture.site].shape(config)), x_BxTxd.dtype
    )
    taken = jax.eval_shape(lambda x: take_positions(x, capture.positions), value)
    return jnp.zeros((len(capture.layers), *taken.shape), taken.dtype)


def slots_of_layers(capture: Capture, config: LlamaConfig) -> jax.Array:
    """Returns where each layer stands in the result of a capture, int32 `[L]`, -1 for nowhere."""
    slots = np.full(config.num_layers, -1, np.int32)
    slots[list(capture.layers)] = np.arange(len(capture.layers))
    return jnp.asarray(slots)


def record(
    buffers: dict[str, jax.Array], taken: dict[str, jax.Array], slots: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
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
