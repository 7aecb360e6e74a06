"""What of a student is held against what of its teacher: layers, or single heads of them."""

from collections.abc import Sequence
from typing import NamedTuple


class Unit(NamedTuple):
    """One unit of a layer, a head."""

    layer: int
    unit: int


# A layer with all its units, or one unit alone.
Side = int | Unit
LayerPairs = tuple[tuple[Side, Side], ...]


def layer_of(side: Side) -> int:
    """Returns the layer of a side."""
    return side.layer if isinstance(side, Unit) else side


def unit_of(side: Side) -> int | None:
    """Returns the unit of a side, None where it is a whole layer."""
    return side.unit if isinstance(side, Unit) else None


def pairs_to_numbers(pairs: LayerPairs) -> list[list[int]]:
    """Returns pairs as results keep them: `[student, teacher]`, each a layer, or layer and unit."""
    numbers = lambda side: list(side) if isinstance(side, Unit) else [side]
    return [[*numbers(student), *numbers(teacher)] for student, teacher in pairs]


def pairs_from_numbers(rows: Sequence[Sequence[int]]) -> LayerPairs:
    """Returns the pairs that `pairs_to_numbers` wrote."""
    return tuple(
        (Unit(*row[:2]), Unit(*row[2:])) if len(row) == 4 else (row[0], row[1]) for row in rows
    )


def read_pairs(text: str) -> LayerPairs:
    """Returns pairs of a text such as `3:7,5:11`, or of heads, `3.0:7.2` (head 0 of layer 3).

    Raises:
        ValueError: anything else.
    """
    pairs = tuple(tuple(_side(side) for side in pair.split(':')) for pair in text.split(','))
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(text)
    if len({type(side) for pair in pairs for side in pair}) > 1:
        raise ValueError(text)
    return pairs


def _side(text: str) -> Side:
    layer, dot, unit = text.partition('.')
    return Unit(int(layer), int(unit)) if dot else int(layer)
