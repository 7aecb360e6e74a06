"""How many training problems an arm needs, where KD alone needs some number of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.distillation.arms import KD
from cdjax.evaluation.statistics import paired_difference

Tables = Mapping[int, Sequence[Mapping[str, Any]]]


def by_problems(tables: Tables) -> dict[str, Any]:
    """Returns the accuracies of all arms by training problems, and what alignment saves of them.

    Args:
        tables: training problems → rows of `summarise` of the students distilled with as many, the
            same arms and seeds of each.

    Returns:
        `problems`, the sizes in order; `arms[]`: `arm`, `means[]` by size, `accuracies[][]` by size
        and seed, `to_reach[]`: the problems with which each seed is as accurate as KD with all of
        them, interpolated over their logarithm, None where it never is; and `saves[]`: `arm`,
        `problems`, `kd_problems`, twice as many, and the mean `difference` in accuracy of the arm
        with the former from KD with the latter, paired by seed, with `interval` (Student's t) and
        `p`, None with one seed.
    """
    sizes = sorted(tables)
    of = {
        (row['arm'], size): dict(zip(row['seeds'], row['accuracies'], strict=True))
        for size in sizes
        for row in tables[size]
    }
    last, arms, saves = of.get((KD.key, sizes[-1]), {}), [], []
    for arm in dict.fromkeys(arm for arm, _ in of):
        found = [of[arm, size] for size in sizes]
        seeds = sorted(found[-1])
        curves = {seed: [one[seed] for one in found] for seed in seeds}
        arms.append(
            {
                'arm': arm,
                'means': [float(np.mean([one[seed] for seed in seeds])) for one in found],
                'accuracies': [[one[seed] for seed in seeds] for one in found],
                'to_reach': [
                    problems_to(sizes, curves[seed], last[seed]) for seed in seeds if seed in last
                ],
            }
        )
        for size in sizes:
            if arm != KD.key and (KD.key, 2 * size) in of:
                saves.append({'arm': arm, **_saved(of[arm, size], of[KD.key, 2 * size], size)})
    return {'problems': sizes, 'arms': arms, 'saves': saves}


def _saved(own: Mapping[int, float], kd: Mapping[int, float], size: int) -> dict[str, Any]:
    gaps = [own[seed] - kd[seed] for seed in sorted(own)]
    return {'problems': size, 'kd_problems': 2 * size, **paired_difference(gaps)}


def problems_to(sizes: Sequence[int], accuracies: Sequence[float], reach: float) -> float | None:
    """Returns with how many problems an accuracy is reached first, None where it never is.

    Args:
        sizes: ascending.
        accuracies: with as many problems.
        reach: the accuracy.
    """
    for i, value in enumerate(accuracies):
        if value < reach:
            continue
        if i == 0:
            return float(sizes[0])
        before = accuracies[i - 1]
        low, high = np.log(sizes[i - 1]), np.log(sizes[i])
        return float(np.exp(low + (high - low) * (reach - before) / (value - before)))
    return None
