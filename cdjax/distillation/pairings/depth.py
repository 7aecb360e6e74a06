"""Layers at the same relative depth: all, or the last alone; and shuffled, as a control."""

import numpy as np

from cdjax.distillation.pairings.pairing import Pairing, shape_of
from cdjax.distillation.pairs import LayerPairs
from cdjax.errors import InputError


def pair_by_depth(student_layers: int, teacher_layers: int) -> LayerPairs:
    """Pairs each student layer with the teacher layer at the same relative depth.

    Layer s of S ends at depth (s + 1) / S, and is paired with the teacher layer that ends
    there: the last layers are always a pair.

    Returns:
        `((student layer, teacher layer), ...)`, one pair for each student layer.
    """
    return tuple(
        (s, max(round((s + 1) / student_layers * teacher_layers) - 1, 0))
        for s in range(student_layers)
    )


def all_layers(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs all layers of the student by depth."""
    return pair_by_depth(shape_of(student).num_layers, shape_of(teacher).num_layers)


def last_layers(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs the last layer of the student with that of the teacher."""
    return all_layers(student, teacher, dataset, rows, context=context)[-1:]


def shuffled(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs each layer of the student with one at another depth, drawn by the context's seed.

    Every teacher layer is drawn as often as it is paired by depth where that can be, and no layer
    keeps the one it has there.

    Raises:
        InputError: the teacher has one layer, so there is no other.
    """
    by_depth = all_layers(student, teacher, dataset, rows, context=context)
    layers = shape_of(teacher).num_layers
    if layers < 2:
        raise InputError(
            'layer_pairs=shuffled: the teacher has one layer, and no other to pair with'
        )
    rng = np.random.default_rng(context.seed)
    own = np.array([t for _, t in by_depth])
    for _ in range(100):
        drawn = rng.permutation(own)
        if (drawn != own).all():
            break
    else:  # some layer is paired with more than half of the student's: draw each anew
        drawn = (own + rng.integers(1, layers, len(own))) % layers
    return tuple((s, int(t)) for (s, _), t in zip(by_depth, drawn, strict=True))


LAST = Pairing('last', 'the last layers', last_layers)
DEPTH = Pairing('depth', 'all layers of the student, by depth', all_layers)
SHUFFLED = Pairing('shuffled', 'all layers of the student, at other depths by chance', shuffled)
