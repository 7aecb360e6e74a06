"""How far two scores put neurons into the same order."""

import numpy as np
from scipy import stats


def rank_correlation(scores: np.ndarray, reference: np.ndarray, among: np.ndarray) -> float:
    """Returns Spearman's correlation of scores with a reference, mean over classes.

    Args:
        scores: float `[K, L, U]`, one ranking for each class.
        reference: float `[L, U]`.
        among: bool `[L, U]`, the units that are compared.

    Returns:
        −1 to 1; NaN where fewer than two units are compared, or one side puts them in no order.
    """
    wanted = reference[among]
    if len(wanted) < 2 or np.ptp(wanted) == 0:
        return float('nan')
    of_classes = [ranking[among] for ranking in scores]
    if any(np.ptp(values) == 0 for values in of_classes):
        return float('nan')
    return float(np.mean([stats.spearmanr(values, wanted).statistic for values in of_classes]))
