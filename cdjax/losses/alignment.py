"""What an alignment of student and teacher maximises: one minus it is the loss.

The teacher's gradient is stopped, the student's is not. Each similarity is taken within classes
where there are any: class k takes its rows only, and the columns of its masks only.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cdjax.losses.cka import MIN_ROWS, cka_loss
from cdjax.losses.class_cka import RowMemory, class_conditional_cka_loss
from cdjax.losses.linear_map import linear_map_r2
from cdjax.losses.numerics import check_choice, float32, safe_ratio
from cdjax.losses.similarity import procrustes_distance, rsa

Told = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ActivationPair:
    """Activations of student and teacher to align, within classes where assignments are given.

    Attributes:
        student: [N, P].
        teacher: [N, Q].
        assignments: [N, K] one-hot rows, the classes of both models, or None for one CKA over
            all rows and columns.
        student_masks: [K, P] circuits of the student, or None for all its neurons.
        teacher_masks: [K, Q] circuits of the teacher, or None for all its neurons.
        memory: past rows for classes that are small in a batch, or None.
        projection: [P, Q] float32, the map that 'linear_map' is about, trained along with the
            student; None for the others.
    """

    student: jax.Array
    teacher: jax.Array
    assignments: jax.Array | None = None
    student_masks: jax.Array | None = None
    teacher_masks: jax.Array | None = None
    memory: RowMemory | None = None
    projection: jax.Array | None = None


def alignment_loss(
    pair: ActivationPair,
    *,
    similarity: str | Callable[..., jax.Array] = 'cka',
    where: jax.Array | None = None,
    min_count: int = MIN_ROWS,
    debiased: bool = True,
) -> tuple[jax.Array, Told]:
    """Returns `1 - similarity` of a pair, and the number of classes too small to count.

    Args:
        pair: the activations; with assignments, the mean over classes of their own rows and
            columns.
        similarity: a key of `SIMILARITIES`: 'cka'; 'procrustes', `‖XᵀY‖_*` of centred sides of unit
            norm; 'rsa', the correlation of squared distances; 'linear_map', see `linear_map_r2`; or
            a function of your own, `(student [N, P], teacher [N, Q], where [N] or None) -> at most
            1`, which is called for each class.
        where: [N] bool, False for padding rows.
        min_count: the least number of rows of a class.
        debiased: HSIC₁ rather than HSIC₀, of CKA.

    Returns:
        The float32 loss; and `classes_left_out`, float32, 0 where there are no classes.

    Raises:
        ValueError: if masks or a memory come without assignments, a memory with another similarity
            than CKA, a projection with another than 'linear_map' or none with that, the similarity
            is unknown, and as `linear_cka`.
    """
    if not callable(similarity):
        check_choice('similarity', similarity, tuple(SIMILARITIES))
    if pair.assignments is None:
        for name in ('student_masks', 'teacher_masks', 'memory'):
            if getattr(pair, name) is not None:
                raise ValueError(
                    f'{name} of an ActivationPair belong to classes; give assignments too'
                )
    if pair.memory is not None and similarity != 'cka':
        raise ValueError('a memory of past rows is for CKA alone')
    if (pair.projection is not None) != (similarity == 'linear_map'):
        raise ValueError('a projection is what linear_map needs, and nothing else reads')
    if callable(similarity):
        return _of_rows(similarity, pair, where, min_count, debiased)
    return SIMILARITIES[similarity](pair, where, min_count, debiased)


def _cka(pair: ActivationPair, where, min_count: int, debiased: bool) -> tuple[jax.Array, Told]:
    if pair.assignments is None:
        loss = cka_loss(pair.student, pair.teacher, debiased=debiased, where=where)
        return loss, {'classes_left_out': jnp.float32(0.0)}
    return class_conditional_cka_loss(
        pair.student,
        pair.teacher,
        pair.assignments,
        student_masks=pair.student_masks,
        teacher_masks=pair.teacher_masks,
        where=where,
        min_count=min_count,
        debiased=debiased,
        memory=pair.memory,
    )


def _linear_map(pair: ActivationPair, where, min_count: int, _) -> tuple[jax.Array, Told]:
    rows = len(pair.student)
    alone = pair.assignments is None
    values, counts = linear_map_r2(
        pair.student,
        pair.teacher,
        pair.projection,
        jnp.ones((rows, 1)) if alone else pair.assignments,
        student_masks=pair.student_masks,
        teacher_masks=pair.teacher_masks,
        where=where,
    )
    loss, told = _mean_over_classes(values, counts, min_count)
    return loss, {'classes_left_out': jnp.float32(0.0)} if alone else told


def _of_rows(
    similarity: Callable, pair: ActivationPair, where, min_count: int, _
) -> tuple[jax.Array, Told]:
    """Returns the loss of a similarity `(x [N, P], y [N, Q], where [N]) -> at most 1`."""
    if pair.assignments is None:
        teacher = jax.lax.stop_gradient(pair.teacher)
        loss = 1 - similarity(pair.student, teacher, where)
        return loss, {'classes_left_out': jnp.float32(0.0)}
    student, teacher = float32(pair.student, jax.lax.stop_gradient(pair.teacher))
    masks = jax.lax.stop_gradient((pair.student_masks, pair.teacher_masks))
    members = pair.assignments > 0.5
    members = members if where is None else members & where[:, None]

    def one_class(inputs):
        rows, masks = inputs
        x, y = (
            side if mask is None else side * mask[None]
            for side, mask in zip((student, teacher), masks, strict=True)
        )
        return similarity(x, y, rows), rows.sum()

    values, counts = jax.lax.map(one_class, (members.T, masks))
    return _mean_over_classes(values, counts, min_count)


def _mean_over_classes(
    values: jax.Array, counts: jax.Array, min_count: int
) -> tuple[jax.Array, Told]:
    """Returns `1 - mean_k similarity_k` over the classes large enough, and how many were not."""
    valid = counts >= min_count
    mean = safe_ratio(jnp.sum(jnp.where(valid, values, 0.0)), valid.sum().astype(jnp.float32))
    left_out = jnp.sum(~valid).astype(jnp.float32)
    return jnp.where(valid.any(), 1 - mean, 0.0), {'classes_left_out': left_out}


def _procrustes(x: jax.Array, y: jax.Array, where: jax.Array | None) -> jax.Array:
    return 1 - procrustes_distance(x, y, where=where) / 2


def _rsa(x: jax.Array, y: jax.Array, where: jax.Array | None) -> jax.Array:
    return rsa(x, y, where=where)


# What an alignment may maximise: `(pair, where, min_count, debiased) -> (loss, told)`.
SIMILARITIES: dict[str, Callable[..., tuple[jax.Array, Told]]] = {
    'cka': _cka,
    'procrustes': functools.partial(_of_rows, _procrustes),
    'rsa': functools.partial(_of_rows, _rsa),
    'linear_map': _linear_map,
}
