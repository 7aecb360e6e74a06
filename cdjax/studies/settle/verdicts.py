"""What an interval says of a hypothesis: supported, refuted, or too little data to tell."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cdjax.evaluation.statistics import crossed_interval, student_interval

SUPPORTED, REFUTED, UNDERPOWERED = 'supported', 'refuted', 'underpowered'


_NOTHING = {'mean': None, 'interval': None, 'verdict': UNDERPOWERED}


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A bound that a mean is said to keep.

    Attributes:
        key: what results know it by.
        text: what is claimed, for people.
        bound: the bound.
        above: whether the mean is said to be at least the bound; at most, if not.
    """

    key: str
    text: str
    bound: float
    above: bool = True


def judge(
    hypothesis: Hypothesis, mean: float | None, interval: tuple[float, float] | None
) -> dict[str, Any]:
    """Returns the verdict on a hypothesis with what it rests on.

    Supported if the whole interval is on the right side of the bound, refuted if it is wholly on
    the wrong one. Without an interval (one measurement) nothing is told but a failure of the mean.

    Args:
        hypothesis: the hypothesis.
        mean: the figure; None where nothing could be measured, which tells nothing.
        interval: of the mean, 95 %; None where there is none.

    Returns:
        The fields of the hypothesis, `mean`, `interval` and `verdict`.
    """
    if mean is None:
        return {**dataclasses.asdict(hypothesis), **_NOTHING}
    low, high = (mean, mean) if interval is None else interval
    right = low >= hypothesis.bound if hypothesis.above else high <= hypothesis.bound
    wrong = high < hypothesis.bound if hypothesis.above else low > hypothesis.bound
    verdict = REFUTED if wrong else SUPPORTED if right and interval else UNDERPOWERED
    return {
        **dataclasses.asdict(hypothesis),
        'mean': mean,
        'interval': None if interval is None else list(interval),
        'verdict': verdict,
    }


def judge_groups(
    hypothesis: Hypothesis, groups: Sequence[Sequence[float | None]]
) -> dict[str, Any]:
    """Judges a mean over measurements that come in groups, such as the seeds of each teacher.

    The interval is Student's, over the means of the groups: measurements of one teacher are not
    independent of each other. One that is missing leaves the whole unmeasured.
    """
    if any(value is None for group in groups for value in group):
        return judge(hypothesis, None, None)
    means = np.array([np.mean(group) for group in groups])
    return judge(hypothesis, float(means.mean()), student_interval(means))


def judge_pairs(hypothesis: Hypothesis, differences: np.ndarray) -> dict[str, Any]:
    """Judges the mean of paired differences `[seeds, problems]`, by `crossed_interval`."""
    return judge(hypothesis, float(differences.mean()), crossed_interval(differences))
