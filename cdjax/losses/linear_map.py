"""How much of a teacher's features a linear map of the student's explains."""

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.numerics import (
    float32,
    product,
    row_weights,
    safe_ratio,
    unit_scale,
    valid_rows,
)


def init_projection(key: jax.Array, student_width: int, teacher_width: int) -> jax.Array:
    """Returns a [P, Q] float32 projection with variance 1/P, to train along with the student."""
    return jax.random.normal(key, (student_width, teacher_width)) / jnp.sqrt(student_width)


def linear_map_r2(
    student: jax.Array,
    teacher: jax.Array,
    projection: jax.Array,
    assignments: jax.Array,
    *,
    student_masks: jax.Array | None = None,
    teacher_masks: jax.Array | None = None,
    where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns what a map of the student's features explains of the teacher's, by class.

    `R²_k = 1 - Σ_i ‖(s̃_i W) ⊙ m_k - t̃_i‖² / Σ_i ‖t̃_i‖²` over the rows of class k, where s̃ and t̃
    are the columns of the class's masks, centred over its rows, and t̃ divided by the root mean
    square of all of them: the hint loss of FitNets (Romero et al. 2015, arXiv 1412.6550), whose
    regressor has a bias too, in parts of the variance, so that it weighs as much as another
    similarity whatever the scale of the teacher.

    Args:
        student: [N, P] features, any float dtype.
        teacher: [N, Q] features of the same rows; their gradient is stopped.
        projection: [P, Q] float32, W; one for all classes. See `init_projection`.
        assignments: [N, K] one-hot rows; those above .5 count.
        student_masks: [K, P], or None for all columns.
        teacher_masks: [K, Q], likewise.
        where: [N] bool, False for padding rows.

    Returns:
        float32 [K], at most 1 and 0 for a constant teacher, and the number of rows of each class.
    """
    chex.assert_rank([student, teacher, assignments], 2)
    chex.assert_equal_shape_prefix([student, teacher, assignments], 1)
    chex.assert_shape(projection, (student.shape[1], teacher.shape[1]))
    s, t, w = float32(student, jax.lax.stop_gradient(teacher), projection)
    members = (assignments > 0.5).astype(jnp.float32) * row_weights(where, len(s))[:, None]
    counts = members.sum(axis=0)
    own = lambda masks: product('nk,kd->nd', members, jax.lax.stop_gradient(masks))

    def centred(features, masks):
        features = valid_rows(features, where)
        means = product('nk,nd->kd', members, features) / jnp.maximum(counts, 1.0)[:, None]
        deviations = features - product('nk,kd->nd', members, means)
        return deviations if masks is None else deviations * own(masks)

    s, (t, _) = centred(s, student_masks), unit_scale(centred(t, teacher_masks))
    mapped = product('np,pq->nq', s, w)
    mapped = mapped if teacher_masks is None else mapped * own(teacher_masks)
    by_class = lambda rows: product('nk,n->k', members, jnp.sum(jnp.square(rows), axis=1))
    total = by_class(t)
    return jnp.where(total > 0, 1 - safe_ratio(by_class(mapped - t), total), 0.0), counts
