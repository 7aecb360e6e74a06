"""Does ablating circuit j hurt the problems of class j, and only those?"""

import itertools

import numpy as np

from cdjax.evaluation.statistics import SAMPLES, percentile_interval, resampled_means

MAX_EXHAUSTIVE = 5040  # relabellings that are all tried, up to seven classes


def specific_parts(masks: np.ndarray) -> np.ndarray:
    """Returns what is each circuit's own, bool `[K, L, U]`.

    The core are the neurons that more than half of the circuits hold; what a circuit has beside it
    is its own. Of circuits that were made of a core and specific parts this gives these parts back
    (but for neurons that most classes have chosen for their own, which are shared then). Taking
    out the whole of a circuit takes the core with it, and hurts every class.

    Args:
        masks: bool `[K, L, U]`.
    """
    return masks & (2 * masks.sum(axis=0) <= len(masks))


def selectivity_matrix(correct: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns the accuracy on each class with each circuit ablated, float64 `[K, K]`.

    Entry `[j, k]` is the accuracy on the problems of class k without circuit j, NaN for a class
    without problems. A selective set of circuits has a low diagonal and a high rest.

    Args:
        correct: `[K, N]`, whether each problem is answered right without each circuit; or
            the probability of its answer, whose means the matrix holds then.
        classes: int `[N]`.
    """
    members_NxK = np.eye(len(correct))[classes]
    counts_K = members_NxK.sum(axis=0)
    hits = correct.astype(np.float64) @ members_NxK
    return np.divide(hits, counts_K, out=np.full(hits.shape, np.nan), where=counts_K > 0)


def selectivity(matrix: np.ndarray) -> float:
    """Returns mean accuracy off the diagonal minus that on it; NaN entries (empty classes) out.

    1 for circuits that are necessary for their own class alone, 0 for circuits that are not told
    apart by the classes.
    """
    return float(_selectivities(matrix[None])[0]) if len(matrix) > 1 else float('nan')


def selectivity_interval(
    correct: np.ndarray,
    classes: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Returns a 95 % bootstrap interval of `selectivity`, over problems and draws of masks.

    Args:
        correct: `[K, N]`, as in `selectivity_matrix`.
        classes: int `[N]`.
        groups: see `resampled_means`.
        samples: resamples.
        seed: of the resampling.

    Returns:
        None where fewer than two classes hold problems.
    """
    if len(np.unique(classes)) < 2:
        return None
    own_KxN = np.eye(len(correct))[classes].T
    hits_KxKxN = correct[:, None] * own_KxN
    resample = lambda values: resampled_means(values, groups, samples=samples, seed=seed)
    hits_SxKxK, shares_Sx1xK = resample(hits_KxKxN), resample(own_KxN)[:, None]
    matrices = np.divide(
        hits_SxKxK,
        shares_Sx1xK,
        out=np.full(hits_SxKxK.shape, np.nan),
        where=shares_Sx1xK > 0,
    )
    return percentile_interval(_selectivities(matrices))


def _selectivities(matrices_SxKxK: np.ndarray) -> np.ndarray:
    """Returns `selectivity` of each of S matrices; NaN where there is no entry of either kind."""
    own = np.eye(matrices_SxKxK.shape[-1], dtype=bool)

    def mean(entries):
        counted = np.isfinite(entries)
        total = np.where(counted, entries, 0).sum(axis=1)
        number = counted.sum(axis=1)
        return np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)

    return mean(matrices_SxKxK[:, ~own]) - mean(matrices_SxKxK[:, own])


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
