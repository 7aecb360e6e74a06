"""Which activations a call of the model returns: sites, layers and positions."""

import dataclasses
from collections.abc import Sequence

from cdjax.errors import InputError
from cdjax.models.config import LlamaConfig
from cdjax.models.positions import (
    Positions,
    check_positions,
    count_positions,
    same_positions,
)
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


def positions_read(
    captures: dict[str, Capture], logits_at: Positions | None, layer: int, length: int
) -> Positions | None:
    """Returns where anything reads what the last layer that runs computes, None for everywhere.

    Keys and values need its input at all positions. The rest of it is computed where logits are
    asked for and its activations are captured, if that is one and the same place.

    Args:
        captures: as `check_captures` returns them.
        logits_at: positions of the logits; None for all, `()` for none.
        layer: number of the layer, the last of the model.
        length: positions of the call (T).
    """
    read = [c.positions for k, c in captures.items() if k != RESIDUAL.key and layer in c.layers]
    if not isinstance(logits_at, tuple) or logits_at:
        read.append(logits_at)
    first = read[0] if read else None
    alike = all(same_positions(first, other, length) for other in read)
    return first if alike and count_positions(first, length) < length else None
