"""What is one class's own of its circuit, alone: what it moves of that class, and of the others.

Where aligning the one's helps that class, and aligning the other's the other, the two are
dissociated, either way: what is aligned is what is learned. A core that the circuits share is part
of neither, for it would make the two alike.
"""

import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given
from cdjax.evaluation.selectivity import specific_parts

FIRST, SECOND = 'first_circuit', 'second_circuit'


def circuit_of(k: int):
    """Returns what aligns the own part of class k's circuit on its problems, no other on others."""

    def align(given: Given) -> Alignment:
        only = lambda masks: specific_parts(masks) & (np.arange(len(masks)) == k)[:, None, None]
        student = given.student_masks
        return given.within_classes(
            only(given.teacher.masks), None if student is None else only(student)
        )

    return align


def _arm(key: str, which: str, k: int, colour: str) -> Arm:
    return Arm(
        key,
        f'KD + CKA of the {which} own part',
        f'what is the {which} class’s own',
        colour,
        circuit_of(k),
        needs_circuits=True,
        least_classes=2,
        by_default=False,
    )


FIRST_CIRCUIT = _arm(FIRST, 'first', 0, 'sky')
SECOND_CIRCUIT = _arm(SECOND, 'second', 1, 'orange')
