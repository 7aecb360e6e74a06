"""How far the mean of a few measurements can be trusted."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of the mean of `values`.

    Args:
        values: `[N]`, one number for each problem (or for each seed); or `[M, N]`, for each of M
            draws, such as random masks, and each problem. Both are resampled then, each on its
            own, so that the interval covers other draws and other problems.
        level: coverage, in (0, 1).
        samples: resamples.
        seed: of the resampling.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)

    def resampled_mean():
        sample = values
        for axis, length in enumerate(values.shape):
            sample = rng.choice(sample, length, axis=axis)
        return sample.mean()

    means = [resampled_mean() for _ in range(samples)]
    return percentile_interval(means, level)


def percentile_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Returns what lies between the tails of resampled values `[S]`."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
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
