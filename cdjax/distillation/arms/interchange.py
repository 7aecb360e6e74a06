"""What a patched circuit does to the answer: circuits by their part in the computation.

Of circuits that share a core only the parts that are each class's own can tell one from another;
these are patched. A student from nothing has no circuits, and is given a block of neurons for each
class, drawn by its seed, that is to take the part of the teacher's.
"""

import dataclasses

import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms.arm import Arm, Given
from cdjax.distillation.contribution import equally_contributing
from cdjax.distillation.pairs import layer_of
from cdjax.distillation.similarities import INTERCHANGE as BY_INTERCHANGE
from cdjax.evaluation.selectivity import specific_parts


def specific_interchange(given: Given) -> Alignment:
    """Patches what is each circuit's own."""
    return _patching(given, specific_parts(given.teacher.masks))


def random_interchange(given: Given) -> Alignment:
    """Patches random living neurons of equal contribution, with the same blocks of the student."""
    own = specific_parts(given.teacher.masks)
    drawn = equally_contributing(own, given.contribution, seed=given.seed)
    return _patching(given, drawn)


def other_interchange(given: Given) -> Alignment:
    """Patches, on the problems of each class, what is the own part of the next."""
    return _patching(given, np.roll(specific_parts(given.teacher.masks), 1, axis=0))


def _patching(given: Given, masks: np.ndarray) -> Alignment:
    aligned = given.within_classes(masks, own_parts(given))
    # One activation is put in at all positions; how activations are read plays no part.
    return dataclasses.replace(aligned, similarity=BY_INTERCHANGE.key, memory=0)


def own_parts(given: Given) -> np.ndarray:
    """Returns the student's neurons that are to be each class's own, bool `[K, L, F]`."""
    student = given.student_masks
    return blocks(given) if student is None else specific_parts(student)


def blocks(given: Given) -> np.ndarray:
    """Returns disjoint blocks of a student's neurons for the classes, bool `[K, L, F]`.

    In each layer as large a part of the neurons as the own parts of the circuits have of the
    teacher's paired layers, and at least one of them.
    """
    layers, neurons = given.student_shape
    own = specific_parts(given.teacher.masks)
    of_layer = {layer_of(student): layer_of(teacher) for student, teacher in given.alignment.pairs}
    rng = np.random.default_rng(given.seed)
    drawn = np.zeros((len(own), layers, neurons), bool)
    for layer, of_teacher in of_layer.items():
        order, start = rng.permutation(neurons), 0
        for k in range(len(own)):
            part = own[k, of_teacher].mean()
            size = min(max(round(part * neurons), 1), max((neurons - start) // (len(own) - k), 1))
            drawn[k, layer, order[start : start + size]] = True
            start += size
    return drawn


def _arm(key: str, what: str, colour: str, align, **changes) -> Arm:
    return Arm(
        key,
        f'KD + interchange of {what}',
        f'interchange of {what}',
        colour,
        align,
        needs_circuits=True,
        least_classes=2,
        patches=True,
        by_default=False,
        **changes,
    )


INTERCHANGE = _arm('interchange', 'specific parts', 'blue', specific_interchange)
INTERCHANGE_RANDOM = _arm(
    'interchange_random',
    'random neurons',
    'grey',
    random_interchange,
    needs_contribution=True,
)
INTERCHANGE_WRONG = _arm(
    'interchange_wrong', 'other classes’ parts', 'vermillion', other_interchange
)
