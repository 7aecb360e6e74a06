"""Ways to pair a student's layers with a teacher's, one file for each or for a family.

A pairing of a user's own is added to `PAIRINGS` before a study runs; flags know it by its key then.
"""

import numpy as np

from cdjax.data import Dataset
from cdjax.distillation.pairings import depth, heads, impact, likeness
from cdjax.distillation.pairings.pairing import Context, Pairing, PairLayers, shape_of
from cdjax.distillation.pairs import LayerPairs, Unit, read_pairs
from cdjax.errors import InputError
from cdjax.models import SITES, Llama, LlamaConfig
from cdjax.registry import Registry

PAIRINGS: Registry[Pairing] = Registry('pairing')
LAST = PAIRINGS.add(depth.LAST)
PAIRINGS.add(depth.DEPTH)
PAIRINGS.add(depth.SHUFFLED)
PAIRINGS.add(impact.ABLATION_IMPACT)
PAIRINGS.add(impact.IMPACT_ONE_TO_ONE)
PAIRINGS.add(likeness.HUNGARIAN_CKA)
PAIRINGS.add(heads.HEAD_IMPACT)
PAIRINGS.add(heads.HEAD_ONE_TO_ONE)
PAIRINGS.add(heads.HEAD_SHUFFLED)

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
    text: str,
    student: LlamaConfig,
    teacher: LlamaConfig,
    *,
    trained: bool,
    most: int | None = None,
    site: str = 'neurons',
) -> None:
    """Raises InputError for a text of layer pairs that `pair_layers` would refuse.

    Args:
        text: see `pair_layers`.
        student: shape of the student.
        teacher: shape of the teacher.
        trained: whether the student starts from weights that can do something.
        most: pairs at most.
        site: whose units are going to be compared.
    """
    if most is not None and most < 1:
        raise InputError(f'most_pairs={most}: at least 1 is needed')
    if not reads_models(text):
        if most is not None:
            raise InputError(
                f'most_pairs={most} chooses among layers that a pairing weighs, and layer_pairs='
                f'{text} weighs none: leave it out'
            )
        pair_layers(text, student, teacher, context=Context(site))
        return
    if PAIRINGS[text].of_heads:
        _check_heads(text, site)
    if not trained:
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
        text: a key of `PAIRINGS`, or pairs `STUDENT:TEACHER` such as `3:7,5:11`, of single heads
            `LAYER.HEAD:LAYER.HEAD` such as `3.0:7.2`.
        student: the model, or its shape where the pairing reads no models.
        teacher: likewise.
        dataset: as in `PairLayers`.
        rows: as in `PairLayers`.
        context: as in `PairLayers`.

    Raises:
        InputError: anything else, a layer that a model lacks, or shapes where models are needed.
    """
    shapes = shape_of(student), shape_of(teacher)
    if text not in PAIRINGS:
        return _explicit(text, *shapes, context.site)
    pairing = PAIRINGS[text]
    if pairing.reads_models and (dataset is None or not isinstance(student, Llama)):
        raise InputError(
            f'layer_pairs={text} cannot be told from shapes: name STUDENT:TEACHER pairs such as '
            '3:7,5:11'
        )
    if pairing.of_heads:
        _check_heads(text, context.site)
    pairs = pairing.pair(student, teacher, dataset, rows, context=context)
    _check_sides(text, pairs, *shapes, context.site)
    return pairs


def _explicit(text: str, student: LlamaConfig, teacher: LlamaConfig, site: str) -> LayerPairs:
    try:
        pairs = read_pairs(text)
    except ValueError:
        raise InputError(
            f'layer_pairs={text!r}: write {", ".join(PAIRINGS)}, or STUDENT:TEACHER pairs such as '
            '3:7,5:11, of single heads 3.0:7.2'
        ) from None
    if isinstance(pairs[0][0], Unit):
        _check_heads(text, site)
    _check_sides(text, pairs, student, teacher, site)
    return pairs


def _check_heads(text: str, site: str) -> None:
    if len(SITES[site].axes) < 2:
        of_heads = ', '.join(key for key in SITES if len(SITES[key].axes) > 1)
        raise InputError(
            f'layer_pairs={text!r} pairs single heads, and align_site={site} has none: set '
            f'align_site={of_heads}'
        )


def _check_sides(
    text: str, pairs: LayerPairs, student: LlamaConfig, teacher: LlamaConfig, site: str
) -> None:
    def lacks(side, config):
        if not isinstance(side, Unit):
            return not 0 <= side < config.num_layers
        return lacks(side.layer, config) or not 0 <= side.unit < SITES[site].units(config)

    def has(config):
        heads = f' of {SITES[site].units(config)} heads' if isinstance(pairs[0][0], Unit) else ''
        return f'0 to {config.num_layers - 1}{heads}'

    for pair in pairs:
        if lacks(pair[0], student) or lacks(pair[1], teacher):
            shown = ':'.join(
                f'{side.layer}.{side.unit}' if isinstance(side, Unit) else str(side)
                for side in pair
            )
            raise InputError(
                f'layer_pairs={text!r}: {shown} is not a pair of layers; the student has '
                f'{has(student)}, the teacher {has(teacher)}'
            )
