"""The class circuits by what their neurons do rather than by what they are, and by a learned map.

Each differs from the arm of class circuits in how its columns are compared, and in nothing else.
"""

import dataclasses
import functools

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given
from cdjax.distillation.arms.circuits import class_circuits, of_another_class
from cdjax.distillation.arms.factorial import equal_random, within_classes
from cdjax.distillation.readings import ATTRIBUTIONS, CONTRIBUTIONS
from cdjax.distillation.similarities import LINEAR_MAP


def of_equal_contribution(given: Given) -> Alignment:
    """Aligns random living neurons outside each circuit that write as much as it does together."""
    return within_classes(equal_random, given)


def read(align, reading: str, given: Given) -> Alignment:
    """Aligns what another arm does, by another reading."""
    return dataclasses.replace(align(given), reading=reading)


def by_linear_map(align, given: Given) -> Alignment:
    """Aligns what another arm does, by a map that is learned beside the student (FitNets)."""
    return dataclasses.replace(align(given), similarity=LINEAR_MAP.key)


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
CONTRIBUTIONS_WRONG = _arm(
    'contributions_wrong',
    'KD + CKA of what wrong ones write',
    'what the circuits of the next class write',
    'vermillion',
    functools.partial(read, of_another_class, CONTRIBUTIONS.key),
    writes=True,
    least_classes=2,
)
ATTRIBUTIONS_ARM = _arm(
    'attributions',
    'KD + CKA of attributed circuits',
    'attribution-weighted circuits',
    'sky',
    functools.partial(read, class_circuits, ATTRIBUTIONS.key),
)
ATTRIBUTIONS_RANDOM = _arm(
    'attributions_random',
    'KD + CKA of attributed random ones',
    'attribution-weighted random neurons',
    'muted',
    functools.partial(read, of_equal_contribution, ATTRIBUTIONS.key),
    needs_contribution=True,
)
FITNETS = _arm(
    'fitnets',
    'KD + a learned map of circuits',
    'a learned map of circuits',
    'purple',
    functools.partial(by_linear_map, class_circuits),
)
FITNETS_RANDOM = _arm(
    'fitnets_random',
    'KD + a learned map of random ones',
    'a learned map of random neurons',
    'muted',
    functools.partial(by_linear_map, of_equal_contribution),
    needs_contribution=True,
)
