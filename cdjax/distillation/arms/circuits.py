"""The teacher's circuits, each within its class: the arm that is studied, and its controls.

The controls differ from it in nothing but the columns.
"""

import numpy as np

from cdjax.circuits.masks import random_masks
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given


def class_circuits(given: Given) -> Alignment:
    """Aligns the teacher's circuit of each class, on the problems of the class."""
    return given.within_classes(given.teacher.masks, given.student_masks)


def randomly_chosen(given: Given) -> Alignment:
    """Aligns as many neurons of each layer, drawn anew for each seed of a student."""
    student = given.student_masks
    return given.within_classes(
        random_masks(given.teacher.masks, seed=2 * given.seed),
        None if student is None else random_masks(student, seed=2 * given.seed + 1),
    )


def of_another_class(given: Given) -> Alignment:
    """Aligns, on the problems of each class, the teacher's circuit of the next."""
    return given.within_classes(np.roll(given.teacher.masks, 1, axis=0), given.student_masks)


CIRCUITS = Arm(
    'circuits',
    'KD + CKA of class circuits',
    'class circuits',
    'blue',
    class_circuits,
    needs_circuits=True,
)
RANDOM = Arm(
    'random',
    'KD + CKA of random masks',
    'random masks',
    'grey',
    randomly_chosen,
    needs_circuits=True,
)
WRONG = Arm(
    'wrong',
    "KD + CKA of other classes' circuits",
    'other classes’ circuits',
    'vermillion',
    of_another_class,
    needs_circuits=True,
    least_classes=2,
)
