"""Single heads whose ablation costs as much (Wadhwa et al. 2025, arXiv 2509.25002), and a control.

With `most` pairs only the student's heads of most impact are paired, the rest is left alone.
"""

import numpy as np

from cdjax.distillation.pairings.impact import impacts, match_nearest, match_one_to_one
from cdjax.distillation.pairings.pairing import Pairing
from cdjax.distillation.pairs import LayerPairs, Unit
from cdjax.errors import InputError


def match_shuffled(seed: int, of_student, of_teacher, chosen):
    """Returns for each that was chosen a place of the teacher by chance, not that of `nearest`.

    Raises:
        InputError: the teacher has one head, and there is no other.
    """
    if len(of_teacher) < 2:
        raise InputError('layer_pairs=head_shuffled: the teacher has one head, and no other')
    rng = np.random.default_rng(seed)
    near = match_nearest(of_student, of_teacher, chosen)
    steps = rng.integers(1, len(of_teacher), len(near)).tolist()
    return tuple(
        (s, (t + step) % len(of_teacher)) for (s, t), step in zip(near, steps, strict=True)
    )


def _pair(match, student, teacher, dataset, rows, context) -> LayerPairs:
    found = match(*impacts(student, teacher, dataset, rows, context, each_unit=True))
    head = lambda model, place: Unit(*divmod(place, model.config.num_heads))
    return tuple((head(student, s), head(teacher, t)) for s, t in found)


def nearest(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs each of the student's heads of most impact with the teacher's of nearest impact.

    Several of the student's may share one of the teacher's.
    """
    return _pair(match_nearest, student, teacher, dataset, rows, context)


def one_to_one(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs as `nearest`, none of the teacher's twice: the least sum of differences of impact."""
    return _pair(match_one_to_one, student, teacher, dataset, rows, context)


def shuffled(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs the student's heads of `nearest` with others of the teacher's, drawn by the seed."""
    match = lambda *found: match_shuffled(context.seed, *found)
    return _pair(match, student, teacher, dataset, rows, context)


def _pairing(key: str, title: str, pair) -> Pairing:
    return Pairing(key, title, pair, reads_models=True, of_heads=True)


HEAD_IMPACT = _pairing('head_impact', 'single heads of nearest impact', nearest)
HEAD_ONE_TO_ONE = _pairing(
    'head_one_to_one', 'single heads of nearest impact, no teacher head twice', one_to_one
)
HEAD_SHUFFLED = _pairing('head_shuffled', 'the same single heads, with others by chance', shuffled)
