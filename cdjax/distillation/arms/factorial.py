"""Which problems are compared with each other × which columns: what each of the two factors adds.

`all` compares all columns over all problems, `circuits` both in parts; the arms here stand between
them. Random classes are those of the circuits, shuffled among the problems for each seed of a
student: as many of each size, and about nothing.
"""

import dataclasses

import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given


def all_within_classes(given: Given) -> Alignment:
    """Aligns all neurons, on the problems of each class."""
    return given.within_classes(None)


def all_within_random_classes(given: Given) -> Alignment:
    """Aligns all neurons, on the problems of each random class."""
    return _shuffle_classes(given.within_classes(None), given.seed)


def circuits_within_random_classes(given: Given) -> Alignment:
    """Aligns the teacher's circuits, each on the problems of a random class."""
    alignment = given.within_classes(given.teacher.masks, given.student_masks)
    return _shuffle_classes(alignment, given.seed)


def one_circuit(given: Given) -> Alignment:
    """Aligns the union of the teacher's circuits, over all problems."""
    student = given.student_masks
    return dataclasses.replace(
        given.alignment,
        classes=np.zeros(len(given.rows), np.int32),
        teacher_masks=given.teacher.masks.any(axis=0, keepdims=True),
        student_masks=None if student is None else student.any(axis=0, keepdims=True),
        num_classes=1,
    )


def rest(given: Given) -> Alignment:
    """Aligns, on the problems of each class, all that is in no circuit."""
    outside = lambda masks: np.broadcast_to(~masks.any(axis=0), masks.shape)
    student = given.student_masks
    return given.within_classes(
        outside(given.teacher.masks), None if student is None else outside(student)
    )


def _shuffle_classes(alignment: Alignment, seed: int) -> Alignment:
    shuffled = np.random.default_rng(seed).permutation(alignment.classes)
    return dataclasses.replace(alignment, classes=shuffled)


def _arm(key: str, what: str, colour: str, align) -> Arm:
    title = f'KD + CKA of {what}'
    return Arm(key, title, what, colour, align, needs_circuits=True, by_default=False)


ALL_CLASSES = _arm('all_classes', 'all neurons within classes', 'orange', all_within_classes)
ALL_RANDOM_CLASSES = _arm(
    'all_random_classes', 'all neurons, random classes', 'sky', all_within_random_classes
)
RANDOM_CLASSES = _arm(
    'random_classes', 'circuits, random classes', 'purple', circuits_within_random_classes
)
ONE_CIRCUIT = _arm('one_circuit', 'one circuit, all problems', 'green', one_circuit)
REST = _arm('rest', 'what is in no circuit', 'muted', rest)
