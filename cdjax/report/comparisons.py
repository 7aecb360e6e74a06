"""What the numbers of a run allow one to say: more, less, or not told apart.

Every sentence of a report goes through a verdict of this module, so that a difference is claimed
where its 95 % interval excludes zero, and nowhere else.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cdjax.studies.arms import t_interval

MORE, LESS, SAME, UNKNOWN = 'more', 'less', 'same', 'unknown'


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference and its 95 % interval, None where there is too little to give one."""

    value: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """`MORE` or `LESS` where the interval excludes zero, `SAME` where it holds zero."""
        if self.interval is None:
            return UNKNOWN
        low, high = self.interval
        return MORE if low > 0 else LESS if high < 0 else SAME


def difference(
    a: float, a_interval: Sequence[float], b: float, b_interval: Sequence[float]
) -> Difference:
    """Returns a − b of two estimates with intervals of their own.

    The interval combines the two by their distances from the estimates (Zou and Donner 2008,
    Statistics in Medicine 27:1693). It takes them to be independent; accuracies on the same
    problems go together, which makes it too wide rather than too narrow.
    """
    low = math.hypot(a - a_interval[0], b_interval[1] - b)
    high = math.hypot(a_interval[1] - a, b - b_interval[0])
    return Difference(a - b, (a - b - low, a - b + high))


def arm_difference(runs: Sequence[Mapping[str, Any]], arm: str, other: str) -> Difference | None:
    """Returns the accuracy of one arm minus another's, paired by seed; None without a pair."""
    of = {(run['arm'], run['seed']): run['unseen'] for run in runs}
    paired = [of[arm, s] - of[other, s] for name, s in of if name == arm and (other, s) in of]
    if not paired:
        return None
    return Difference(sum(paired) / len(paired), t_interval(paired))


def overlap_difference(study: Mapping[str, Any]) -> Difference | None:
    """Returns the mean overlap (IoU) of two circuits minus that of random masks of their size.

    The interval is two standard deviations of the overlap of one pair of random masks, whose
    intersection is hypergeometric; None for a single circuit.
    """
    overlap, n, neurons = study['overlap'], study['size'], study['neurons']
    pairs = [overlap[j][k] for j in range(len(overlap)) for k in range(j)]
    if not pairs:
        return None
    p = n / neurons
    deviation = math.sqrt(n * p * (1 - p) * (neurons - n) / max(neurons - 1, 1))
    half = 2 * deviation * 2 * n / (2 * n - n * p) ** 2
    value = sum(pairs) / len(pairs) - study['chance_overlap']
    return Difference(value, (value - half, value + half))


def at_circuit_size(study: Mapping[str, Any]) -> int:
    """Returns the index of the evaluated size that is nearest to that of the circuits."""
    sizes = study['sizes']
    return min(range(len(sizes)), key=lambda i: abs(sizes[i] - study['size']))
