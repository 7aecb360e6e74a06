"""Classes that several searches agree on, or the answer that there are none."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

# Half way from chance (an adjusted Rand index of 0) to equal classes (1).
LEAST_STABILITY = 0.5
_PERMUTATIONS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Consensus:
    """What searches that differ in their seed agree on.

    Attributes:
        classes: int32 `[N]`, the class that most searches give to a problem; None where there are
            no stable classes.
        stability: mean adjusted Rand index over all pairs of searches.
        chance: the index that searches without anything to find stay below, 95 % of their pairs.
        share: float64 `[N]`, the part of the searches that agree with the class of a problem.
    """

    classes: np.ndarray | None
    stability: float
    chance: float
    share: np.ndarray


def consensus_classes(
    runs: Sequence[np.ndarray],
    *,
    null: Sequence[np.ndarray] | None = None,
    least: float = LEAST_STABILITY,
    seed: int = 0,
) -> Consensus:
    """Returns the consensus of searches for classes.

    The rule: classes are stable if the mean adjusted Rand index (ARI) of all pairs of runs is at
    least `least`, and above the 95 % quantile of the pairs of null runs. Permutations of the runs
    only show what independent classes would have; searches in data without classes may well agree
    with each other (they cut the same cloud at the same place), so give such runs where they can be
    had.

    The run most like the others is the reference; the classes of every other are matched to its own
    (the assignment that shares the most problems), and each problem gets the class of the most
    runs.

    Args:
        runs: at least two, int `[N]` each, classes of the same N problems.
        null: at least two searches in data that hold no classes; permuted runs if None.
        least: see above.
        seed: of the permutations.

    Raises:
        ValueError: fewer than two runs.
    """
    if len(runs) < 2 or (null is not None and len(null) < 2):
        raise ValueError('a consensus needs two runs at least')
    pairs = _pairwise(runs)
    if null is None:
        rng = np.random.default_rng(seed)
        permuted = [[rng.permutation(run) for run in runs] for _ in range(_PERMUTATIONS)]
        chance = [_pairwise(one) for one in permuted]
    else:
        chance = [_pairwise(null)]
    above = lambda matrix: matrix[np.triu_indices(len(matrix), 1)]
    stability = float(above(pairs).mean())
    chance = float(np.quantile(np.concatenate([above(one) for one in chance]), 0.95))
    reference = np.asarray(runs[int(pairs.sum(axis=1).argmax())])
    num_classes = 1 + max(int(np.max(run)) for run in runs)
    matched = np.stack([_matched(np.asarray(run), reference, num_classes) for run in runs])
    votes_KxN = np.stack([(matched == k).sum(axis=0) for k in range(num_classes)])
    stable = stability >= least and stability > chance
    return Consensus(
        classes=votes_KxN.argmax(axis=0).astype(np.int32) if stable else None,
        stability=stability,
        chance=chance,
        share=votes_KxN.max(axis=0) / len(runs),
    )


def _pairwise(runs: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the adjusted Rand index of every pair of runs, `[S, S]`."""
    from sklearn.metrics import adjusted_rand_score  # takes seconds to import

    matrix = np.eye(len(runs))
    for i, j in itertools.combinations(range(len(runs)), 2):
        matrix[i, j] = matrix[j, i] = adjusted_rand_score(runs[i], runs[j])
    return matrix


def _matched(classes: np.ndarray, reference: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns classes renamed so that the most problems have the class of the reference."""
    from scipy.optimize import linear_sum_assignment  # takes as long to import

    shared = np.zeros((num_classes, num_classes), int)
    np.add.at(shared, (classes, reference), 1)
    ours, theirs = linear_sum_assignment(shared, maximize=True)
    names = np.empty(num_classes, np.int32)
    names[ours] = theirs
    return names[classes]
