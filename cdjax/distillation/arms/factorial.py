"""Which problems are compared with each other × which columns: what each of the two factors adds.

Problems are compared all with all, within the classes of the circuits, or within random classes:
those of the circuits, shuffled among the problems for each seed of a student, as many of each size
and about nothing. Columns are all neurons, the circuits, random neurons that contribute as much, or
what is in no circuit; where all problems are compared, the circuits are their union. `all`,
`circuits` and `random_equal` are cells of it that stand in files of their own. The next class's
circuit, a fifth choice of columns, is another one within classes alone (`wrong`): to random classes
any circuit is another's.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from cdjax.circuits.masks import random_masks
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given
from cdjax.distillation.contribution import equally_contributing

# What of a model's circuits `[K, L, U]` is compared; they are the student's where that is said.
Columns = Callable[[np.ndarray, Given, bool], np.ndarray]


def every_column(masks: np.ndarray, given: Given, of_student: bool = False) -> None:
    """Chooses all neurons."""


def circuits(masks: np.ndarray, given: Given, of_student: bool = False) -> np.ndarray:
    """Chooses the circuits."""
    return masks


def equal_random(masks: np.ndarray, given: Given, of_student: bool = False) -> np.ndarray:
    """Chooses random neurons of equal contribution, of a student as many as in its circuits."""
    if of_student:
        return random_masks(masks, seed=2 * given.seed + 1)
    return equally_contributing(masks, given.contribution, seed=given.seed)


def outside(masks: np.ndarray, given: Given, of_student: bool = False) -> np.ndarray:
    """Chooses what is in no circuit."""
    return np.broadcast_to(~masks.any(axis=0), masks.shape)


def within_classes(columns: Columns, given: Given) -> Alignment:
    """Aligns columns on the problems of each class."""
    student = given.student_masks
    return given.within_classes(
        columns(given.teacher.masks, given, False),
        None if student is None else columns(student, given, True),
    )


def within_random_classes(columns: Columns, given: Given) -> Alignment:
    """Aligns columns on the problems of each random class."""
    alignment = within_classes(columns, given)
    shuffled = np.random.default_rng(given.seed).permutation(alignment.classes)
    return dataclasses.replace(alignment, classes=shuffled)


def over_all(columns: Columns, given: Given) -> Alignment:
    """Aligns columns, of the union of the circuits, over all problems."""
    union = lambda masks: masks.any(axis=0, keepdims=True)
    student = given.student_masks
    return dataclasses.replace(
        given.alignment,
        classes=np.zeros(len(given.rows), np.int32),
        teacher_masks=columns(union(given.teacher.masks), given, False),
        student_masks=None if student is None else columns(union(student), given, True),
        num_classes=1,
    )


def _arm(key: str, what: str, colour: str, compare, columns: Columns) -> Arm:
    return Arm(
        key,
        f'KD + CKA of {what}',
        what,
        colour,
        lambda given: compare(columns, given),
        needs_circuits=True,
        needs_contribution=columns is equal_random,
        by_default=False,
    )


# In the order of tables: classes by classes, columns by columns.
FACTORIAL = (
    _arm('one_circuit', 'one circuit, all problems', 'green', over_all, circuits),
    _arm('one_random', 'equal random neurons, all problems', 'grey', over_all, equal_random),
    _arm('one_rest', 'what is in no circuit, all problems', 'muted', over_all, outside),
    _arm('all_classes', 'all neurons within classes', 'orange', within_classes, every_column),
    _arm('rest', 'what is in no circuit', 'muted', within_classes, outside),
    _arm(
        'all_random_classes',
        'all neurons, random classes',
        'sky',
        within_random_classes,
        every_column,
    ),
    _arm('random_classes', 'circuits, random classes', 'purple', within_random_classes, circuits),
    _arm(
        'random_classes_equal',
        'equal random neurons, random classes',
        'grey',
        within_random_classes,
        equal_random,
    ),
    _arm(
        'random_classes_rest',
        'what is in no circuit, random classes',
        'muted',
        within_random_classes,
        outside,
    ),
)
