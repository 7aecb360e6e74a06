"""Which neurons of a model are alive, and what of a circuit is dead.

A model may leave most of its neurons unused (the embedded teacher three in four). Of two circuits,
dead neurons say nothing: overlap, density and random masks are judged among the living.
"""

import numpy as np

# A neuron is dead that varies less than this part of the most variable one of its layer.
DEAD_BELOW = 0.01


def living_neurons(deviations: np.ndarray, *, dead_below: float = DEAD_BELOW) -> np.ndarray:
    """Returns which neurons vary over the data at some position, bool `[L, U]`.

    A neuron is dead if at every position its standard deviation over the data is below
    `dead_below` times the largest of its layer (over neurons and positions): mean ablation then
    changes next to nothing. A layer that does not vary at all has no living neuron.

    Args:
        deviations: float `[L, T, U]`, the standard deviation of each unit at each position.
        dead_below: the part.
    """
    most_LxU = np.asarray(deviations, np.float64).max(axis=1)
    largest = most_LxU.max(axis=1, keepdims=True)
    return (most_LxU >= dead_below * largest) & (largest > 0)


def dead_share(masks: np.ndarray, living: np.ndarray) -> float:
    """Returns the share of a set of circuits' neurons that are dead, 0 for empty circuits.

    Args:
        masks: bool `[K, L, U]`.
        living: bool `[L, U]`.
    """
    return float((masks & ~living).sum() / max(masks.sum(), 1))


def overlap_among(masks: np.ndarray, living: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of the living neurons of all pairs of circuits.

    Args:
        masks: bool `[K, L, U]`.
        living: bool `[L, U]`.

    Returns:
        float64 `[K, K]`; 0 where neither circuit of a pair has a living neuron.
    """
    alive = (masks & living).reshape(len(masks), -1).astype(np.float64)
    both = alive @ alive.T
    sizes = alive.sum(axis=1)
    return both / np.maximum(sizes[:, None] + sizes[None] - both, 1)


def chance_overlap(masks: np.ndarray, living: np.ndarray) -> np.ndarray:
    """Returns the overlap to be expected of pairs that choose at random among the living.

    Each circuit keeps its number of living neurons in each layer; of a and b among n, random ones
    have ab / n in common. The ratio is taken of the expected numbers.

    Args:
        masks: bool `[K, L, U]`.
        living: bool `[L, U]`.

    Returns:
        float64 `[K, K]`, of two different random circuits, on the diagonal too.
    """
    counts_KxL = (masks & living).sum(axis=2).astype(np.float64)
    both = (counts_KxL / np.maximum(living.sum(axis=1), 1)) @ counts_KxL.T
    sizes = counts_KxL.sum(axis=1)
    return both / np.maximum(sizes[:, None] + sizes[None] - both, 1)
