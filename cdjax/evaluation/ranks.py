"""How far two scores put neurons into the same order."""

import numpy as np


def rank_correlation(scores: np.ndarray, reference: np.ndarray, among: np.ndarray) -> float:
    """Returns Spearman's correlation of scores with a reference, mean over classes.

    Args:
        scores: float `[K, L, U]`, one ranking for each class.
        reference: float `[L, U]`.
        among: bool `[L, U]`, the units that are compared, or `[K, L, U]`, those of each class.

    Returns:
        −1 to 1; NaN where of some class fewer than two units are compared, or one side puts them
        in no order.
    """
    from scipy import stats  # half a second, which no launcher's --help is to wait for

    found = []
    for ranking, compared in zip(scores, np.broadcast_to(among, scores.shape), strict=True):
        ours, wanted = ranking[compared], reference[compared]
        if len(ours) < 2 or np.ptp(ours) == 0 or np.ptp(wanted) == 0:
            return float('nan')
        found.append(stats.spearmanr(ours, wanted).statistic)
    return float(np.mean(found))
