"""The circuit of one class alone: what it moves of that class, and what of the others.

Where aligning the circuit of one class helps that class, and aligning that of another the other,
the two are dissociated, either way: what is aligned is what is learned.
"""

import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given

FIRST, SECOND = 'first_circuit', 'second_circuit'


def circuit_of(k: int):
    """Returns what aligns the circuit of class k on its problems, and nothing on others."""

    def align(given: Given) -> Alignment:
        only = lambda masks: masks & (np.arange(len(masks)) == k)[:, None, None]
        student = given.student_masks
        return given.within_classes(
            only(given.teacher.masks), None if student is None else only(student)
        )

    return align


def _arm(key: str, which: str, k: int, colour: str) -> Arm:
    return Arm(
        key,
        f'KD + CKA of the {which} circuit',
        f'the {which} class’s circuit',
        colour,
        circuit_of(k),
        needs_circuits=True,
        least_classes=2,
        by_default=False,
    )


FIRST_CIRCUIT = _arm(FIRST, 'first', 0, 'sky')
SECOND_CIRCUIT = _arm(SECOND, 'second', 1, 'orange')
