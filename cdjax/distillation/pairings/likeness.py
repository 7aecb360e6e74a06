"""Layers that represent the problems alike: Hungarian matching on CKA."""

import jax.numpy as jnp
import numpy as np

from cdjax.distillation.cka import debiased_cka
from cdjax.distillation.pairings.pairing import Pairing
from cdjax.distillation.pairs import LayerPairs
from cdjax.inference.activations import answer_logits_and_activations


def likeness(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Returns the debiased linear CKA of all layers of two models, float64 `[S, T]`.

    Args:
        student: `[N, S, ...]`, activations of the same N problems, at least 4.
        teacher: `[N, T, ...]`.
    """
    sides = [[jnp.asarray(side[:, i]) for i in range(side.shape[1])] for side in (student, teacher)]
    return np.array([[debiased_cka(x, y) for y in sides[1]] for x in sides[0]])


def hungarian_cka(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs layers one to one such that the sum of their CKAs is the largest.

    Of a student with more layers than the teacher, some stay alone; of the pairs the `most` alike
    are kept.
    """
    from scipy.optimize import linear_sum_assignment  # a third of a second, for this pairing alone

    of = lambda model: answer_logits_and_activations(
        model, dataset[rows], site=context.site, positions=context.positions, **context.passes
    )[1]
    alike = likeness(of(student), of(teacher))
    pairs = list(zip(*linear_sum_assignment(-alike), strict=True))
    kept = sorted(sorted(pairs, key=lambda pair: -alike[pair])[: context.most])
    return tuple((int(s), int(t)) for s, t in kept)


HUNGARIAN_CKA = Pairing(
    'hungarian_cka', 'one to one by the largest CKA', hungarian_cka, reads_models=True
)
