"""What latent classes know: agreement with known structure, and how much of the answer."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far classes agree with a known structure of the problems.

    Attributes:
        nmi: normalised mutual information, 0 to 1.
        ari: adjusted Rand index, about 0 for independent classes, 1 for equal ones.
        chance_nmi: the 95 % quantile of `nmi` over permutations of the classes.
        chance_ari: likewise of `ari`.
    """

    nmi: float
    ari: float
    chance_nmi: float
    chance_ari: float


def agreement(
    classes: np.ndarray, labels: np.ndarray, *, permutations: int = 200, seed: int = 0
) -> Agreement:
    """Compares classes `[N]` with labels `[N]`, and with permuted classes as a baseline."""
    rng = np.random.default_rng(seed)
    nmi, ari = _nmi_and_ari(_contingency(classes, labels))
    drawn = [_contingency(rng.permutation(classes), labels) for _ in range(permutations)]
    chance_nmi, chance_ari = _nmi_and_ari(np.stack(drawn))
    return Agreement(
        nmi=float(nmi),
        ari=float(ari),
        chance_nmi=float(np.quantile(chance_nmi, 0.95)),
        chance_ari=float(np.quantile(chance_ari, 0.95)),
    )


def _contingency(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns how many problems have each class and label that occurs, float `[K, J]`."""
    (used, k), (names, j) = (np.unique(x, return_inverse=True) for x in (classes, labels))
    counts = np.bincount(k * len(names) + j, minlength=len(used) * len(names))
    return counts.reshape(len(used), len(names)).astype(float)


def _information(tables_KxJ: np.ndarray) -> np.ndarray:
    """Returns the mutual information of tables `[..., K, J]` in nats, `[...]`, never below 0."""
    total = tables_KxJ.sum(axis=(-2, -1), keepdims=True)
    by_chance = tables_KxJ.sum(axis=-1, keepdims=True) * tables_KxJ.sum(axis=-2, keepdims=True)
    # Products of counts are exact, so that one class tells nothing, to the bit.
    seen = tables_KxJ > 0
    ratio = np.divide(tables_KxJ * total, by_chance, out=np.ones(seen.shape), where=seen)
    return np.maximum((tables_KxJ / total * np.log(ratio)).sum(axis=(-2, -1)), 0.0)


def _nmi_and_ari(tables_KxJ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns NMI by the mean of the entropies, and ARI, of tables `[..., K, J]`.

    As scikit-learn has them; 200 permutations at a time, which cost it seconds.
    """
    total = tables_KxJ.sum(axis=(-2, -1))
    sides = [tables_KxJ.sum(axis=axis) for axis in (-1, -2)]
    entropies = []
    for counts in sides:
        p = counts / total[..., None]
        entropies.append(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1))
    mean = (entropies[0] + entropies[1]) / 2
    information = _information(tables_KxJ)
    nmi = np.divide(information, mean, out=np.ones_like(mean), where=mean > 0)
    nmi = np.minimum(nmi, 1.0)  # of equal partitions, but for rounding
    # Pairs of problems that are together in both, in one of them, and in none.
    both = (tables_KxJ**2).sum(axis=(-2, -1))
    one, other = ((counts**2).sum(axis=-1) - both for counts in sides)
    none = total**2 - both - one - other
    both = both - total
    above = 2 * (both * none - one * other)
    below = (both + one) * (one + none) + (both + other) * (other + none)
    ari = np.divide(above, below, out=np.ones_like(above), where=below > 0)
    return nmi, ari


def class_table(classes: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how many problems of each class have each label, int `[K, labels]`."""
    table = np.zeros((num_classes, labels.max() + 1), int)
    np.add.at(table, (classes, labels), 1)
    return table


def answer_information(classes: np.ndarray, answers: np.ndarray) -> float:
    """Returns the mutual information of class and answer in bits.

    It bounds what the choice of a circuit can tell the ablated model about the answer. Estimated
    from the problems at hand it is too high, by far where answers are many and problems few; see
    `chance_information`.
    """
    return float(_information(_contingency(classes, answers)) / np.log(2))


def chance_information(
    classes: np.ndarray, answers: np.ndarray, *, permutations: int = 50, seed: int = 0
) -> float:
    """Returns the mean of `answer_information` over permuted classes, which know nothing."""
    rng = np.random.default_rng(seed)
    drawn = [answer_information(rng.permutation(classes), answers) for _ in range(permutations)]
    return float(np.mean(drawn))


def constant_answer_accuracy(classes: np.ndarray, answers: np.ndarray) -> float:
    """Returns the accuracy of answering each class with its most frequent answer.

    What circuits could reach by the choice of the class alone, without any computation.
    """
    table = class_table(classes, np.unique(answers, return_inverse=True)[1], classes.max() + 1)
    return float(table.max(axis=1).sum() / len(classes))
