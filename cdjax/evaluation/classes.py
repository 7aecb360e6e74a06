"""What latent classes know: agreement with known structure, and how much of the answer."""

import dataclasses

import numpy as np
from sklearn.metrics import (
    adjusted_rand_score,
    mutual_info_score,
    normalized_mutual_info_score,
)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far classes agree with a known structure of the problems.

    Attributes:
        nmi: normalised mutual information, 0 to 1.
        ari: adjusted Rand index, about 0 for independent classes, 1 for equal ones.
        chance_nmi: the 95 % quantile of `nmi` over permutations of the classes.
    """

    nmi: float
    ari: float
    chance_nmi: float


def agreement(
    classes: np.ndarray, labels: np.ndarray, *, permutations: int = 200, seed: int = 0
) -> Agreement:
    """Compares classes `[N]` with labels `[N]`, and with permuted classes as a baseline."""
    rng = np.random.default_rng(seed)
    chance = [
        normalized_mutual_info_score(labels, rng.permutation(classes)) for _ in range(permutations)
    ]
    return Agreement(
        nmi=float(normalized_mutual_info_score(labels, classes)),
        ari=float(adjusted_rand_score(labels, classes)),
        chance_nmi=float(np.quantile(chance, 0.95)),
    )


def class_table(classes: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how many problems of each class have each label, int `[K, labels]`."""
    table = np.zeros((num_classes, labels.max() + 1), int)
    np.add.at(table, (classes, labels), 1)
    return table


def answer_information(classes: np.ndarray, answers: np.ndarray) -> float:
    """Returns the mutual information of class and answer in bits.

    It bounds what the choice of a circuit can tell the ablated model about the answer.
    """
    return float(mutual_info_score(answers, classes) / np.log(2))


def constant_answer_accuracy(classes: np.ndarray, answers: np.ndarray) -> float:
    """Returns the accuracy of answering each class with its most frequent answer.

    What circuits could reach by the choice of the class alone, without any computation.
    """
    table = class_table(classes, np.unique(answers, return_inverse=True)[1], classes.max() + 1)
    return float(table.max(axis=1).sum() / len(classes))
