"""Does ablating circuit j hurt the problems of class j, and only those?"""

import itertools
from collections.abc import Callable

import numpy as np

from cdjax.evaluation.statistics import percentile_interval
from cdjax.inference.predictions import Predictions

MAX_EXHAUSTIVE = 5040  # relabellings that are all tried, up to seven classes


def correct_without(ablated: Callable[..., Predictions], masks: np.ndarray) -> np.ndarray:
    """Returns which problems are answered right with each circuit ablated, bool `[K, N]`.

    Args:
        ablated: `predict` with everything but its masks: the model, N problems, the ablation.
        masks: bool `[K, L, U]`.
    """
    removed = ~np.asarray(masks, bool)
    return np.stack([ablated(masks=removed[j : j + 1]).correct for j in range(len(masks))])


def selectivity_matrix(correct: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the accuracy on each class with each circuit ablated, float64 `[..., K, K]`.

    Entry `[j, k]` is the accuracy on the problems of class k without circuit j, NaN for a class
    without problems. A selective set of circuits has a low diagonal and a high rest.

    Args:
        correct: bool `[..., K, N]`, what `correct_without` returns.
        classes: int `[N]`.
    """
    members_NxK = np.eye(correct.shape[-2])[classes]
    counts_K = members_NxK.sum(axis=0)
    hits = correct.astype(np.float64) @ members_NxK
    return np.divide(hits, counts_K, out=np.full(hits.shape, np.nan), where=counts_K > 0)


def selectivity(matrix: np.ndarray) -> float:
    """Returns mean accuracy off the diagonal minus that on it; NaN entries (empty classes) out.

    1 for circuits that are necessary for their own class alone, 0 for circuits that are not told
    apart by the classes.
    """
    own = np.eye(len(matrix), dtype=bool)
    if len(matrix) < 2:
        return float('nan')
    return float(np.nanmean(matrix[~own]) - np.nanmean(matrix[own]))


def selectivity_interval(
    correct: np.ndarray, classes: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Returns a 95 % bootstrap interval of `selectivity`, over problems and draws of masks.

    Args:
        correct: bool `[M, K, N]`, `correct_without` for each of M draws of K masks; 1 where the
            masks are given.
        classes: int `[N]`.
        samples: resamples.
        seed: of the resampling.

    Returns:
        None where fewer than two classes hold problems.
    """
    if len(np.unique(classes)) < 2:
        return None
    rng = np.random.default_rng(seed)
    draws, _, problems = correct.shape

    def resampled():
        rows = rng.integers(problems, size=problems)
        # Draws are averaged before anything else, so that the mean may be taken of their answers.
        shares = correct[rng.integers(draws, size=draws)].mean(axis=0)
        return selectivity(selectivity_matrix(shares[:, rows], classes[rows]))

    values = np.array([resampled() for _ in range(samples)])
    return percentile_interval(values[np.isfinite(values)])


def compare_matrices(
    first: np.ndarray, second: np.ndarray, *, seed: int = 0
) -> tuple[float, float | None]:
    """Returns how alike two selectivity matrices of the same classes are, and by what chance.

    Args:
        first: float `[K, K]`, of one model.
        second: float `[K, K]`, of another.
        seed: of the relabellings, where there are too many to try all.

    Returns:
        The Pearson correlation of their entries, NaN where one is constant; and the share of
        relabellings of the second's classes (the identity among them) that correlate at least
        as much, None where it has no meaning (fewer than three classes).
    """
    classes = len(first)
    observed = _correlation(first, second)
    if classes < 3 or np.isnan(observed):
        return observed, None
    orders = list(itertools.islice(itertools.permutations(range(classes)), MAX_EXHAUSTIVE + 1))
    if len(orders) > MAX_EXHAUSTIVE:
        rng = np.random.default_rng(seed)
        drawn = [rng.permutation(classes) for _ in range(MAX_EXHAUSTIVE - 1)]
        orders = [np.arange(classes), *drawn]
    others = [_correlation(first, second[np.ix_(order, order)]) for order in orders]
    return observed, float(np.mean(np.array(others) >= observed - 1e-12))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    x, y = a[both] - a[both].mean(), b[both] - b[both].mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 1e-12 else float('nan')
