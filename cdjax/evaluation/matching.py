"""Circuits of two searches, whose classes have no common order, matched and compared."""

import numpy as np

from cdjax.circuits.masks import DRAWS, random_masks
from cdjax.evaluation.living import overlap_among


def matched_overlap(first: np.ndarray, second: np.ndarray, living: np.ndarray) -> float:
    """Returns the mean overlap of the circuits of two searches, matched so that it is largest.

    Overlap is intersection over union among living neurons.

    Args:
        first: bool `[K, L, U]`.
        second: bool `[K', L, U]`.
        living: bool `[L, U]`.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    between = overlap_among(np.concatenate([first, second]), living)[: len(first), len(first) :]
    rows, columns = linear_sum_assignment(-between)
    return float(between[rows, columns].mean())


def chance_of_matching(
    first: np.ndarray, second: np.ndarray, living: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> float:
    """Returns the mean of `matched_overlap` over random circuits of the living, matched likewise.

    Each has its circuit's number of neurons in each layer. To choose the best match makes the
    overlap of random circuits larger too.

    Args:
        first: as in `matched_overlap`, like the others.
        second: as there.
        living: as there.
        draws: pairs of searches that are drawn.
        seed: of the first draw.
    """
    drawn = [
        [
            random_masks(masks, seed=seed + 2 * draw + which, living=living)
            for which, masks in enumerate((first, second))
        ]
        for draw in range(draws)
    ]
    return float(np.mean([matched_overlap(*pair, living) for pair in drawn]))
