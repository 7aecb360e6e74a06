"""A figure of the students of an arm, and what it differs from KD's by, paired by seed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cdjax.distillation.arms import KD
from cdjax.evaluation.statistics import paired_difference


def beside_kd(
    arm: str, seeds: Sequence[int], value: Callable[[str, int], float | None]
) -> dict[str, Any]:
    """Returns the mean of a figure over the students of an arm, and its difference from KD's.

    Args:
        arm: key of the arm.
        seeds: of its students.
        value: (arm, seed) → the figure, None where there is none of that student.

    Returns:
        `mean` (None where no student has it) and `values`; for other arms than KD, where both have
        it for some seed, `gain`, the mean difference, its Student's t `gain_interval`, `p` (both
        None with one seed) and `pairs`, the seeds that both have.
    """
    own = [(value(arm, seed), value(KD.key, seed)) for seed in seeds]
    values = [mine for mine, _ in own if mine is not None]
    gaps = [mine - kd for mine, kd in own if mine is not None and kd is not None]
    told = {'mean': float(np.mean(values)) if values else None, 'values': values}
    if arm != KD.key and gaps:
        told |= {**gain_over_kd(gaps), 'pairs': len(gaps)}
    return told


def gain_over_kd(gaps: Sequence[float]) -> dict[str, Any]:
    """Returns `gain`, the mean of differences from KD, its Student's t `gain_interval`, and `p`.

    The latter two are None with one seed.
    """
    found = paired_difference(gaps)
    return {'gain': found['difference'], 'gain_interval': found['interval'], 'p': found['p']}
