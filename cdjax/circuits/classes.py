"""Schemes that sort problems into classes: the learned ones, and those they are held against."""

import dataclasses
from collections.abc import Callable

import numpy as np
from absl import logging

from cdjax.circuits.clusters import cluster, stable_clusters
from cdjax.circuits.consensus import LEAST_STABILITY
from cdjax.circuits.expectation import refined_classes
from cdjax.data import Dataset
from cdjax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Sorting:
    """What a scheme may look at.

    Attributes:
        dataset: N problems.
        num_classes: classes of the circuits that are studied, K.
        seed: of schemes that draw.
        learned: int `[N]`, the classes of the circuits that are studied; None before they are
            discovered.
        rows: int, the problems to learn from; None before a model is loaded, as `vectors`.
        vectors: makes the attribution vectors of the problems, float32 `[N, E]`, see
            `cdjax.inference.attribution_vectors`.
        divergences: `(classes, round) -> float [N, K]`, see `cdjax.circuits.expectation`; None
            where no masks are going to be trained.
    """

    dataset: Dataset
    num_classes: int
    seed: int = 0
    learned: np.ndarray | None = None
    rows: np.ndarray | None = None
    vectors: Callable[[], np.ndarray] | None = None
    divergences: Callable[[np.ndarray, int], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class ClassScheme:
    """A way to sort problems into classes.

    Attributes:
        key: what methods know it by.
        assign: `(sorting) -> int [N]`; None where the problems lack the structure it goes by.
        from_learned: whether it needs the model or its circuits, `Sorting.learned`, `vectors` or
            `divergences`; there are K classes then.
        from_circuits: whether it needs the circuits, `Sorting.learned`.
        given: whether the problems decide how many classes there are, and K nothing.
    """

    key: str
    assign: Callable[[Sorting], np.ndarray | None]
    from_learned: bool = False
    from_circuits: bool = False
    given: bool = False


def one_class(sorting: Sorting) -> np.ndarray:
    """Returns one class for all problems."""
    return np.zeros(len(sorting.dataset), np.int32)


def random_classes(sorting: Sorting) -> np.ndarray:
    """Returns K classes that know nothing, drawn problem by problem."""
    rng = np.random.default_rng(sorting.seed)
    return rng.integers(sorting.num_classes, size=len(sorting.dataset), dtype=np.int32)


def operator_classes(sorting: Sorting) -> np.ndarray | None:
    """Returns a class for each sequence of operators, where problems have several of them."""
    labels = sorting.dataset.labels.get('operators')
    if labels is None:
        return None
    # Of problems that were left out there may be operators that no other has.
    there, classes = np.unique(labels, return_inverse=True)
    return classes.astype(np.int32) if len(there) > 1 else None


def answer_cut_classes(sorting: Sorting) -> np.ndarray:
    """Returns K classes of about equal size, cut by the answer: they leak as much as K can."""
    return cut_by_value(sorting.dataset.labels['answer'], sorting.num_classes)


def cut_by_value(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns labels cut into K ranges of about equal counts, int32 `[N]`.

    Args:
        labels: int `[N]`, numbered in the order of what they stand for.
        num_classes: K.
    """
    totals = np.cumsum(np.bincount(labels))
    middle = totals - np.bincount(labels) / 2
    of_label = np.minimum((middle * num_classes / totals[-1]).astype(int), num_classes - 1)
    return of_label[labels].astype(np.int32)


def answer_matched_classes(sorting: Sorting) -> np.ndarray:
    """Returns the learned classes, shuffled among the problems of equal answer.

    P(class | answer) is exactly that of the learned classes, so these tell as much of the answer;
    of anything else they know nothing, and circuits cannot specialise in them.
    """
    rng = np.random.default_rng(sorting.seed)
    classes, answers = sorting.learned.copy(), sorting.dataset.answer_ids
    for answer in np.unique(answers):
        rows = np.flatnonzero(answers == answer)
        classes[rows] = rng.permutation(classes[rows])
    return classes


def attribution_classes(sorting: Sorting) -> np.ndarray | None:
    """Returns K classes by k-means on the attributions of the model's own predictions.

    None, with a warning, where searches do not agree: there are no stable classes then.
    """
    if sorting.vectors is None:
        return None
    found = stable_clusters(sorting.vectors(), sorting.rows, sorting.num_classes, seed=sorting.seed)
    if found.classes is None:
        logging.warning(
            'attribution: there are no %d stable classes: searches agree by an adjusted Rand index '
            'of %.2f (without anything to find: up to %.2f; needed: %.2f)',
            *(sorting.num_classes, found.stability, found.chance, LEAST_STABILITY),
        )
    return found.classes


def em_classes(sorting: Sorting) -> np.ndarray | None:
    """Returns K classes by expectation maximisation, from those of k-means on attributions."""
    if sorting.divergences is None:
        return None
    first = cluster(sorting.vectors(), sorting.rows, sorting.num_classes, seed=sorting.seed)
    return refined_classes(first, sorting.divergences)


CLASSES: Registry[ClassScheme] = Registry('class scheme')
LEARNED = CLASSES.add(
    ClassScheme('learned', lambda sorting: sorting.learned, from_learned=True, from_circuits=True)
)
ONE = CLASSES.add(ClassScheme('one', one_class, given=True))
CLASSES.add(ClassScheme('operators', operator_classes, given=True))
CLASSES.add(ClassScheme('random', random_classes))
CLASSES.add(ClassScheme('answer_cut', answer_cut_classes))
CLASSES.add(
    ClassScheme('answer_matched', answer_matched_classes, from_learned=True, from_circuits=True)
)
CLASSES.add(ClassScheme('attribution', attribution_classes, from_learned=True))
CLASSES.add(ClassScheme('em', em_classes, from_learned=True))
