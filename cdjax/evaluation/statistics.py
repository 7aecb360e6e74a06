"""How far the mean of a few measurements can be trusted."""

import numpy as np
from scipy import stats


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of the mean of `values` `[N]`.

    Args:
        values: one number for each problem (or for each seed).
        level: coverage, in (0, 1).
        samples: resamples.
        seed: of the resampling.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(samples)])
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def student_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float] | None:
    """Returns Student's t interval of the mean of `values` `[N]`; None for fewer than two.

    Args:
        values: one number for each seed, independent of each other.
        level: coverage, in (0, 1).
    """
    if len(values) < 2:
        return None
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    mean = float(np.mean(values))
    return mean - half, mean + half
