"""Does a circuit need all of its neurons? Blocks of its ranking are taken out one by one."""

import itertools

import numpy as np

from cdjax.evaluation.statistics import bootstrap_interval

BLOCKS = 10
# A block matters if the probability of the answer falls by at least so much without it.
MATTERS = 0.01


def without_blocks(scores: np.ndarray, masks: np.ndarray, blocks: int = BLOCKS) -> np.ndarray:
    """Returns the circuits less one block of their ranking each, bool `[B, K, L, U]`.

    A circuit's neurons in the order of their scores, the highest first, are cut into B blocks of
    equal size (but for rounding): block 0 is what the method holds most important.

    Args:
        scores: float `[K, L, U]`.
        masks: bool `[K, L, U]`, n neurons for each class.
        blocks: how many; n where a circuit has fewer neurons.
    """
    K, size = len(masks), int(masks[0].sum())
    edges = np.linspace(0, size, min(blocks, size) + 1).round().astype(int)
    flat = np.where(masks, scores, -np.inf).reshape(K, -1)
    order = np.argsort(-flat, axis=1, kind='stable')
    less = np.repeat(masks.reshape(1, K, -1), len(edges) - 1, axis=0)
    for block, (start, end) in enumerate(itertools.pairwise(edges)):
        np.put_along_axis(less[block], order[:, start:end], False, axis=1)
    return less.reshape(-1, *masks.shape)


def needless_share(drops: np.ndarray, neurons: np.ndarray) -> float:
    """Returns the share of a circuit's neurons that are in blocks which do not matter.

    Args:
        drops: `[B]`, how much the mean probability of the answer falls without each block.
        neurons: `[B]`, neurons of each block.
    """
    return float(np.sum(np.where(drops < MATTERS, neurons, 0)) / np.sum(neurons))


def drop(whole: np.ndarray, less: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Returns the mean of `whole − less` over problems `[N]`, and its bootstrap interval."""
    difference = np.asarray(whole, np.float64) - less
    return float(difference.mean()), bootstrap_interval(difference)
