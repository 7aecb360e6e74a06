"""How far the mean of a few measurements can be trusted."""

import functools

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

SAMPLES = 2000  # resamples of a bootstrap
_BLOCK = 256  # of them at once, so that their weights need little memory as floats


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    level: float = 0.95,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of the mean of `values`.

    Args:
        values: `[N]`, one number for each problem (or for each seed).
        groups: see `resampled_means`.
        level: coverage, in (0, 1).
        samples: resamples.
        seed: of the resampling.
    """
    return percentile_interval(resampled_means(values, groups, samples=samples, seed=seed), level)


def resampled_means(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Returns means over resampled problems, float64 `[samples, ...]`.

    Equal numbers and seeds are resampled alike, so that what is computed of several means, such as
    their ratio, may be computed sample by sample.

    Args:
        values: `[..., N]`, one number for each problem.
        groups: int `[N]`, the group of each problem, such as the draw of a random mask that it was
            measured with. Whole groups are resampled then, so that the spread is that of other
            groups with other problems, as long as problems fall into groups at random. None where
            there are none.
        samples: resamples.
        seed: of the resampling.
    """
    values = np.asarray(values, np.float64)
    problems = values.shape[-1]
    flat = values.reshape(-1, problems)
    units = problems if groups is None else int(groups.max()) + 1
    counts = resampled_counts(units, samples, seed)
    means = np.empty((samples, len(flat)))
    for start in range(0, samples, _BLOCK):
        block = slice(start, start + _BLOCK)
        weights = counts[block] if groups is None else counts[block][:, groups]
        weights = weights.astype(np.float64)
        means[block] = weights @ flat.T / weights.sum(axis=1, keepdims=True)
    return means.reshape(samples, *values.shape[:-1])


@functools.lru_cache(maxsize=4)
def resampled_counts(n: int, samples: int, seed: int) -> np.ndarray:
    """Returns how often each of n things is drawn in each resample of n, uint16 `[samples, n]`."""
    rng = np.random.default_rng(seed)
    counts = np.empty((samples, n), np.uint16)
    for row in counts:
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    counts.flags.writeable = False  # all callers share it
    return counts


def percentile_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Returns what lies between the tails of resampled values `[S]`; NaN are left out."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
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
