"""The right circuits in the wrong place: at another depth, or of other problems."""

import dataclasses

import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given
from cdjax.distillation.arms.circuits import class_circuits
from cdjax.errors import InputError


def layers_swapped(given: Given) -> Alignment:
    """Aligns the teacher's circuits of other layers: those of the next pair, or of the next layer.

    Raises:
        InputError: the teacher has one layer.
    """
    alignment, layers = class_circuits(given), given.teacher.masks.shape[1]
    if layers < 2:
        raise InputError('the arm swapped needs a teacher of at least 2 layers: leave it out')
    students, teachers = alignment.student_layers, list(alignment.teacher_layers)
    if len(set(teachers)) == 1:
        moved = [(layer + 1) % layers for layer in teachers]
    else:
        distinct = sorted(set(teachers))
        after = dict(zip(distinct, distinct[1:] + distinct[:1], strict=True))
        moved = [after[layer] for layer in teachers]
    return dataclasses.replace(alignment, pairs=tuple(zip(students, moved, strict=True)))


def rows_shuffled(given: Given) -> Alignment:
    """Aligns each problem with another one's activations in the teacher, of the same class."""
    alignment = class_circuits(given)
    rng = np.random.default_rng(given.seed)
    teacher_rows = np.arange(len(alignment.classes))
    for k in np.unique(alignment.classes):
        own = np.flatnonzero(alignment.classes == k)
        teacher_rows[own] = rng.permutation(own)
    return dataclasses.replace(alignment, teacher_rows=teacher_rows)


SWAPPED = Arm(
    'swapped',
    'KD + CKA of circuits, layers swapped',
    'circuits, layers swapped',
    'purple',
    layers_swapped,
    needs_circuits=True,
    by_default=False,
    other_layers=True,
)
SHUFFLED = Arm(
    'shuffled',
    'KD + CKA of circuits, rows shuffled',
    'circuits, rows shuffled',
    'muted',
    rows_shuffled,
    needs_circuits=True,
    by_default=False,
)
