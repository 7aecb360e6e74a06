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
    from sklearn.metrics import (  # takes seconds to import
        adjusted_rand_score,
        normalized_mutual_info_score,
    )

    rng = np.random.default_rng(seed)
    permuted = [rng.permutation(classes) for _ in range(permutations)]
    chance_nmi = [normalized_mutual_info_score(labels, drawn) for drawn in permuted]
    chance_ari = [adjusted_rand_score(labels, drawn) for drawn in permuted]
    return Agreement(
        nmi=float(normalized_mutual_info_score(labels, classes)),
        ari=float(adjusted_rand_score(labels, classes)),
        chance_nmi=float(np.quantile(chance_nmi, 0.95)),
        chance_ari=float(np.quantile(chance_ari, 0.95)),
    )


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
    from sklearn.metrics import mutual_info_score  # takes seconds to import

    return float(mutual_info_score(answers, classes) / np.log(2))


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
