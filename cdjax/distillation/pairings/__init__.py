"""Ways to pair a student's layers with a teacher's, one file for each or for a family.

A pairing of a user's own is added to `PAIRINGS` before a study runs; flags know it by its key then.
"""

import numpy as np

from cdjax.data import Dataset
from cdjax.distillation.alignment import LayerPairs
from cdjax.distillation.pairings import depth, impact, likeness
from cdjax.distillation.pairings.pairing import Context, Pairing, PairLayers, shape_of
from cdjax.errors import InputError
from cdjax.models import Llama, LlamaConfig
from cdjax.registry import Registry

PAIRINGS: Registry[Pairing] = Registry('pairing')
LAST = PAIRINGS.add(depth.LAST)
PAIRINGS.add(depth.DEPTH)
PAIRINGS.add(depth.SHUFFLED)
PAIRINGS.add(impact.ABLATION_IMPACT)
PAIRINGS.add(impact.IMPACT_ONE_TO_ONE)
PAIRINGS.add(likeness.HUNGARIAN_CKA)

__all__ = [
    'LAST',
    'PAIRINGS',
    'Context',
    'PairLayers',
    'Pairing',
    'check_pairs',
    'pair_layers',
    'reads_models',
]


def reads_models(text: str) -> bool:
    """Tells whether a text of layer pairs is a pairing that needs weights and problems."""
    return text in PAIRINGS and PAIRINGS[text].reads_models


def check_pairs(
    text: str, student: LlamaConfig, teacher: LlamaConfig, *, trained: bool, most: int | None = None
) -> None:
    """Raises InputError for a text of layer pairs that `pair_layers` would refuse.

    Args:
        text: see `pair_layers`.
        student: shape of the student.
        teacher: shape of the teacher.
        trained: whether the student starts from weights that can do something.
        most: pairs at most.
    """
    if most is not None and most < 1:
        raise InputError(f'most_pairs={most}: at least 1 is needed')
    if not reads_models(text):
        if most is not None:
            raise InputError(
                f'most_pairs={most} chooses among layers that a pairing weighs, and layer_pairs='
                f'{text} weighs none: leave it out'
            )
        pair_layers(text, student, teacher)
    elif not trained:
        raise InputError(
            f'layer_pairs={text} looks at what the layers of both models do, and a student from '
            'nothing does nothing yet: start from a checkpoint or in part, or pair by last, depth '
            'or numbers'
        )


def pair_layers(
    text: str,
    student: Llama | LlamaConfig,
    teacher: Llama | LlamaConfig,
    dataset: Dataset | None = None,
    rows: np.ndarray | None = None,
    *,
    context: Context = Context(),
) -> LayerPairs:
    """Returns the layers that a text pairs.

    Args:
        text: a key of `PAIRINGS`, or pairs `STUDENT:TEACHER` such as `3:7,5:11`.
        student: the model, or its shape where the pairing reads no models.
        teacher: likewise.
        dataset: as in `PairLayers`.
        rows: as in `PairLayers`.
        context: as in `PairLayers`.

    Raises:
        InputError: anything else, a layer that a model lacks, or shapes where models are needed.
    """
    layers = shape_of(student).num_layers, shape_of(teacher).num_layers
    if text not in PAIRINGS:
        return _explicit(text, *layers)
    pairing = PAIRINGS[text]
    if pairing.reads_models and (dataset is None or not isinstance(student, Llama)):
        raise InputError(
            f'layer_pairs={text} cannot be told from shapes: name STUDENT:TEACHER pairs such as '
            '3:7,5:11'
        )
    pairs = pairing.pair(student, teacher, dataset, rows, context=context)
    _check_layers(text, pairs, *layers)
    return pairs


def _explicit(text: str, student_layers: int, teacher_layers: int) -> LayerPairs:
    try:
        pairs = tuple(tuple(int(n) for n in part.split(':')) for part in text.split(','))
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError
    except ValueError:
        raise InputError(
            f'layer_pairs={text!r}: write {", ".join(PAIRINGS)}, or STUDENT:TEACHER pairs such as '
            '3:7,5:11'
        ) from None
    _check_layers(text, pairs, student_layers, teacher_layers)
    return pairs


def _check_layers(text: str, pairs: LayerPairs, student_layers: int, teacher_layers: int) -> None:
    for s, t in pairs:
        if not (0 <= s < student_layers and 0 <= t < teacher_layers):
            raise InputError(
                f'layer_pairs={text!r}: {s}:{t} is not a pair of layers; the student has 0 to '
                f'{student_layers - 1}, the teacher 0 to {teacher_layers - 1}'
            )
