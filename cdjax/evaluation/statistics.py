"""How far the mean of a few measurements can be trusted."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SAMPLES = 2000  # resamples of a bootstrap
FEW_CLUSTERS = 5  # up to which a bootstrap of them is too narrow
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

    Raises:
        ValueError: values of several axes, which are not resampled alike: see `crossed_interval`.
    """
    if np.ndim(values) != 1:
        raise ValueError(f'values of shape {np.shape(values)}: one axis is resampled')
    return percentile_interval(resampled_means(values, groups, samples=samples, seed=seed), level)


def crossed_interval(values: np.ndarray) -> tuple[float, float]:
    """Returns a 95 % interval of a mean over seeds and problems, which are the same for each seed.

    Half of it is the root of two squares: of half of Student's interval over the seeds' means, and
    of half of the bootstrap's over the problems' means. Of one seed it is the bootstrap's alone.

    Args:
        values: `[seeds, problems]`.
    """
    values = np.asarray(values, np.float64)
    over = student_interval(values.mean(axis=1)), bootstrap_interval(values.mean(axis=0))
    return joint_interval(float(values.mean()), *over)


def joint_interval(mean: float, *intervals: tuple[float, float] | None) -> tuple[float, float]:
    """Returns the interval of a mean that varies for several reasons, each with one of its own.

    Half of it is the root of the sum of the squares of their halves; None adds nothing.
    """
    half = math.hypot(*((i[1] - i[0]) / 2 for i in intervals if i is not None))
    return mean - half, mean + half


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


def cluster_interval(groups: Sequence[Any]) -> tuple[float, float] | None:
    """Returns the 95 % bootstrap interval of the mean over clusters, and over what is in each.

    Clusters are resampled, and then what is in each that was drawn, level by level, so that the
    interval covers other clusters with other values: students differ by their seed, all of them by
    the circuits that one discovery found, and discoveries by the teacher.

    Args:
        groups: the values of each cluster, such as the gains by student seed of each discovery; or
            of each the clusters that are nested in it, such as the discoveries in each teacher.

    Returns:
        None for fewer than two clusters, which tell nothing of others.
    """
    if len(groups) < 2:
        return None
    rng, groups = np.random.default_rng(0), [_nested(group) for group in groups]
    return percentile_interval([_resampled(groups, rng) for _ in range(SAMPLES)])


def few_clusters_interval(means: ArrayLike) -> tuple[float, float] | None:
    """Returns Student's t interval of the mean over clusters that are few for a bootstrap.

    A percentile bootstrap of n clusters has (n - 1) / n of their variance and the tails of many:
    of three its 95 % cover some 75. This one is wider, its degrees of freedom being n - 1.

    Args:
        means: of each cluster.

    Returns:
        None for more than `FEW_CLUSTERS`, and for fewer than two.
    """
    means = np.asarray(means, np.float64)
    return student_interval(means) if len(means) <= FEW_CLUSTERS else None


def nested_mean(groups: Sequence[Any]) -> float:
    """Returns the mean over clusters of the means of what is nested in each; see above."""
    return float(_mean_of(_nested(groups)))


def _nested(group: Any) -> Any:
    """Returns values as an array, and clusters of such as a list."""
    if np.isscalar(group[0]):  # clusters may be of several sizes, and so are no array themselves
        return np.asarray(group, np.float64)
    return [_nested(one) for one in group]


def _mean_of(group: Any) -> float:
    return np.mean([_mean_of(one) for one in group] if isinstance(group, list) else group)


def _resampled(group: Any, rng: np.random.Generator) -> float:
    """Returns the mean of a resample of a cluster, of whatever is nested in it."""
    chosen = rng.integers(len(group), size=len(group))
    if isinstance(group, list):
        return np.mean([_resampled(group[i], rng) for i in chosen])
    return group[chosen].mean()


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
    from scipy import stats  # half a second

    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def paired_p(differences: ArrayLike) -> float | None:
    """Returns the two-sided p of Student's t test that paired differences have mean 0.

    None for fewer than two. Where all are equal there is no spread to go by: 0, or 1 where they
    are 0.
    """
    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    from scipy import stats  # half a second

    return float(stats.ttest_1samp(values, 0.0).pvalue)


def paired_difference(differences: Sequence[float]) -> dict[str, Any]:
    """Returns the mean `difference` of pairs, its Student's t `interval`, and `p`.

    The latter two are None for one pair.
    """
    return {
        'difference': float(np.mean(differences)),
        'interval': student_interval(differences),
        'p': paired_p(differences),
    }


def equivalence_p(differences: ArrayLike, margin: float) -> float | None:
    """Returns the p of two one-sided t tests that the mean difference lies within ±margin.

    Schuirmann's TOST (1987): the larger p of "at most −margin" and "at least margin". Below .05 a
    difference of that size is ruled out; without it "no difference" says only that none was found.
    None for fewer than two.

    Args:
        differences: paired differences.
        margin: above 0, in their unit.
    """
    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return float(abs(values[0]) >= margin)
    from scipy import stats  # half a second

    above = stats.ttest_1samp(values, -margin, alternative='greater').pvalue
    below = stats.ttest_1samp(values, margin, alternative='less').pvalue
    return float(max(above, below))


def holm(p_values: ArrayLike) -> list[float]:
    """Returns p values that hold for all comparisons together (Holm 1979), in their order.

    The i-th smallest of n, from 0, is multiplied by n − i, and made no smaller than those below it.
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind='stable')
    n = len(p_values)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * (n - np.arange(n))), 1.0)
    return adjusted.tolist()


def steps_to(curve: ArrayLike, level: float) -> float | None:
    """Returns the steps after which a curve first reaches a level, None where it never does.

    Args:
        curve: `[(step, value), ...]`, in order; between its points, as before the first one from
            (0, 0) on, the curve is taken to be straight.
        level: of the values.
    """
    before = (0.0, 0.0)
    for step, value in curve:
        if value >= level:
            part = 1.0 if value == before[1] else (level - before[1]) / (value - before[1])
            return float(before[0] + max(part, 0.0) * (step - before[0]))
        before = (step, value)
    return None
