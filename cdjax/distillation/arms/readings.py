"""The class circuits by what their neurons do rather than by what they are, and by a learned map.

Each differs from the arm of class circuits in how its columns are compared, and in nothing else.
"""

import dataclasses
import functools

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given
from cdjax.distillation.arms.circuits import class_circuits, randomly_chosen
from cdjax.distillation.contribution import equally_contributing
from cdjax.distillation.readings import ATTRIBUTIONS, CONTRIBUTIONS


def of_equal_contribution(given: Given) -> Alignment:
    """Aligns random living neurons outside each circuit that write as much as it does together."""
    masks = equally_contributing(given.teacher.masks, given.contribution, seed=given.seed)
    return given.within_classes(masks, randomly_chosen(given).student_masks)


def read(align, reading: str, given: Given) -> Alignment:
    """Aligns what another arm does, by another reading."""
    return dataclasses.replace(align(given), reading=reading)


def by_linear_map(given: Given) -> Alignment:
    """Aligns the circuits by a map that is learned beside the student (FitNets)."""
    return dataclasses.replace(class_circuits(given), similarity='linear_map')


def _arm(key: str, title: str, phrase: str, colour: str, align, **changes) -> Arm:
    return Arm(key, title, phrase, colour, align, needs_circuits=True, by_default=False, **changes)


RANDOM_EQUAL = _arm(
    'random_equal',
    'KD + CKA of equal random neurons',
    'random neurons of equal contribution',
    'grey',
    of_equal_contribution,
    needs_contribution=True,
)
CONTRIBUTIONS_ARM = _arm(
    'contributions',
    'KD + CKA of what circuits write',
    'what circuits write',
    'green',
    functools.partial(read, class_circuits, CONTRIBUTIONS.key),
    writes=True,
)
CONTRIBUTIONS_RANDOM = _arm(
    'contributions_random',
    'KD + CKA of what random ones write',
    'what random neurons of equal contribution write',
    'muted',
    functools.partial(read, of_equal_contribution, CONTRIBUTIONS.key),
    writes=True,
    needs_contribution=True,
)
ATTRIBUTIONS_ARM = _arm(
    'attributions',
    'KD + CKA of attributed circuits',
    'attribution-weighted circuits',
    'sky',
    functools.partial(read, class_circuits, ATTRIBUTIONS.key),
)
FITNETS = _arm(
    'fitnets',
    'KD + a learned map of circuits',
    'a learned map of circuits',
    'purple',
    by_linear_map,
)
