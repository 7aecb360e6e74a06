"""Does ablating circuit j hurt the problems of class j, and only those?"""

import itertools
from collections.abc import Callable

import numpy as np

from cdjax.inference.predictions import Predictions

MAX_EXHAUSTIVE = 5040  # relabellings that are all tried, up to seven classes


def selectivity_matrix(
    ablated: Callable[..., Predictions], masks: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Returns the accuracy on each class with each circuit ablated, float64 `[K, K]`.

    Entry `[j, k]` is the accuracy on the problems of class k without circuit j. A selective set
    of circuits has a low diagonal and a high rest.

    Args:
        ablated: `predict` with everything but its masks: the model, N problems, the ablation.
        masks: bool `[K, L, F]`.
        classes: int `[N]`.
    """
    removed = 1.0 - masks
    predictions = [ablated(masks=removed[j : j + 1]) for j in range(len(masks))]
    return np.stack([p.accuracy_by_class(classes, len(masks)) for p in predictions])


def selectivity(matrix: np.ndarray) -> float:
    """Returns mean accuracy off the diagonal minus that on it; NaN entries (empty classes) out.

    1 for circuits that are necessary for their own class alone, 0 for circuits that are not told
    apart by the classes.
    """
    own = np.eye(len(matrix), dtype=bool)
    if len(matrix) < 2:
        return float('nan')
    return float(np.nanmean(matrix[~own]) - np.nanmean(matrix[own]))


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
