"""The mesh and the largest batch that fit a machine, found with few compilations.

A compilation takes a minute, so it confirms what formulas and a straight line have chosen: the
memory of a program is that of its parameters plus so much for each row.
"""

import dataclasses
from collections.abc import Callable

# Rounds of correction where the memory is not quite a straight line in the batch.
CORRECTIONS = 3


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Sizes of the two axes of a mesh."""

    fsdp: int
    tensor: int


def candidate_meshes(
    num_devices: int, seconds: Callable[[MeshShape], float], rows: int, kv_heads: int
) -> list[MeshShape]:
    """Returns the meshes worth trying, the fastest by formula first.

    Args:
        num_devices: devices of the machine.
        seconds: least time of a step on a mesh, such as a roofline gives.
        rows: rows that are computed at once; `fsdp` must divide them.
        kv_heads: `tensor` stays within them, so that no head is split.
    """
    shapes = [
        MeshShape(num_devices // tensor, tensor)
        for tensor in range(1, min(num_devices, kv_heads) + 1)
        if num_devices % tensor == 0 and kv_heads % tensor == 0
    ]
    return sorted((s for s in shapes if rows % s.fsdp == 0), key=seconds)


def largest_batch(
    needed: Callable[[int], float],
    limit: float,
    *,
    first: int,
    multiple: int,
    most: int,
    least: int = 1,
) -> int:
    """Returns the largest batch that needs at most `limit` bytes, or 0 if none does.

    Args:
        needed: rows → bytes, compiled; called three times or a few more.
        limit: bytes of a device that may be used.
        first: a batch to begin with, a multiple of `multiple`.
        multiple: batches are multiples of this.
        most: no batch above this is tried.
        least: no batch below this is tried, at most `first`.

    Returns:
        A multiple of `multiple` that `needed` has confirmed. It may be a few percent short of
        the true largest one, never beyond it.
    """
    known = {first: needed(first)}

    def fits(rows):
        if rows not in known:
            known[rows] = needed(rows)
        return known[rows] <= limit

    least = -(-least // multiple) * multiple
    other = max(least, first // 2 // multiple * multiple)
    if fits(first):
        other = min(2 * first, most // multiple * multiple)
    fits(other)
    for _ in range(CORRECTIONS):
        guess = _straight_line(known, limit)
        guess = max(min(int(guess), most) // multiple * multiple, least)
        if guess in known:
            break
        fits(guess)
    fitting = [rows for rows, size in known.items() if size <= limit]
    return max(fitting, default=0)


def _straight_line(known: dict[int, float], limit: float) -> float:
    """Returns where the line through the two points nearest to the limit meets it."""
    near = sorted(known, key=lambda rows: abs(known[rows] - limit))[:2]
    a, b = min(near), max(near)
    if a == b or known[b] <= known[a]:
        return max(known) * 2.0
    slope = (known[b] - known[a]) / (b - a)
    return a + (limit - known[a]) / slope
