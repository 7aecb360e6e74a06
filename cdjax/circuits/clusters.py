"""Classes by k-means on one vector for each problem, such as its attributions."""

import numpy as np

from cdjax.circuits.consensus import Consensus, consensus_classes

# Searches of a consensus: ten pairs.
SEARCHES = 5


def cluster(vectors: np.ndarray, rows: np.ndarray, num_classes: int, *, seed: int) -> np.ndarray:
    """Returns classes of k-means, fitted to some problems and given to all, int32 `[N]`.

    Args:
        vectors: float `[N, E]`.
        rows: int, the problems that the centres are fitted to.
        num_classes: K.
        seed: of the first centres.
    """
    from sklearn.cluster import KMeans  # takes seconds to import

    fitted = KMeans(num_classes, n_init=3, random_state=seed).fit(vectors[rows])
    return fitted.predict(vectors).astype(np.int32)


def stable_clusters(
    vectors: np.ndarray, rows: np.ndarray, num_classes: int, *, seed: int = 0
) -> Consensus:
    """Returns the consensus of k-means on halves of the problems, beside data without classes.

    Each search has a half of its own to fit, so that agreement is not that of one search with
    itself. The null has every feature shuffled among the problems: the same values, and nothing
    that goes together.

    Args:
        vectors: float `[N, E]`.
        rows: int, the problems to learn from.
        num_classes: K.
        seed: of halves, centres and shuffles.
    """
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(rows)[: len(rows) // 2] for _ in range(SEARCHES)]
    shuffled = rng.permuted(vectors, axis=0)
    search = lambda data: [
        cluster(data, half, num_classes, seed=seed + i) for i, half in enumerate(halves)
    ]
    return consensus_classes(search(vectors), null=search(shuffled))
