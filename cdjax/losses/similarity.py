"""Representational similarity: CKA, RSA and orthogonal Procrustes, float32 and differentiable.

CKA is in cka.py and class_cka.py; this module offers it beside the other two.
"""

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.cka import HSIC, cka_loss, hsic, linear_cka, minibatch_cka, u_center
from cdjax.losses.class_cka import (
    ClassCKA,
    RowMemory,
    class_conditional_cka,
    class_conditional_cka_loss,
)
from cdjax.losses.numerics import (
    HIGHEST,
    center,
    check_choice,
    gram_matrix,
    product,
    row_weights,
    safe_ratio,
    safe_sqrt,
    unit_peak,
    unit_scale,
)

__all__ = [
    'HSIC',
    'ClassCKA',
    'RowMemory',
    'cka_loss',
    'class_conditional_cka',
    'class_conditional_cka_loss',
    'hsic',
    'linear_cka',
    'minibatch_cka',
    'procrustes_distance',
    'rsa',
]

DISTANCES = ('sqeuclidean', 'euclidean', 'cosine', 'correlation')
CENTERINGS = (None, 'double', 'u')
COMPARISONS = ('pearson', 'cosine', 'spearman')


def _squared_distances(x: jax.Array) -> jax.Array:
    """Returns the [N, N] squared distances of centred rows [N, P], about -1e-7 for equal ones."""
    square = jnp.sum(jnp.square(x), axis=1)
    return square[:, None] + square[None] - 2 * gram_matrix(x)


def _dissimilarity(x: jax.Array, weights: jax.Array, distance: str) -> jax.Array:
    """Returns the [N, N] matrix of pairwise dissimilarities of rows."""
    if distance.endswith('euclidean'):
        x, _ = unit_scale(center(x, weights))
        squared = _squared_distances(x)
        return squared if distance == 'sqeuclidean' else safe_sqrt(squared)
    x = jnp.where(weights[:, None] > 0, x.astype(jnp.float32), 0.0)
    if distance == 'correlation':
        # A row that is constant over its features has no correlation: it is centred to zero.
        x = center(x.T, jnp.ones(x.shape[1], jnp.float32)).T
    x = unit_peak(x)
    norms = safe_sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True))
    directions = center(safe_ratio(x, norms), weights)
    # 1 - u·v = ½‖u - v‖² of unit rows, and centred: where all rows lie far from 0 in much the same
    # direction every cosine is .999, and 1 - u·v keeps three digits. A zero row has cosine 0.
    nonzero = norms > 0
    return jnp.where(nonzero & nonzero.T, _squared_distances(directions) / 2, 1.0)


def _double_center(matrix: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns a symmetric [N, N] matrix whose rows and columns of valid rows have mean 0."""
    valid = weights[:, None] * weights[None]
    n = jnp.maximum(weights.sum(), 1.0)
    matrix = matrix * valid
    rows = matrix.sum(axis=1) / n
    return (matrix - rows[:, None] - rows[None] + rows.sum() / n) * valid


def _average_ranks(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns the ranks of [M] valid values from 1, ties at their average rank, others 0."""
    values = jnp.where(valid, values, jnp.inf)
    ordered = jnp.sort(values)
    below = jnp.searchsorted(ordered, values, side='left')
    through = jnp.searchsorted(ordered, values, side='right')
    return jnp.where(valid, (below + through + 1) / 2, 0.0)


def rsa(
    x: jax.Array,
    y: jax.Array,
    *,
    distance: str = 'sqeuclidean',
    centering: str | None = None,
    comparison: str = 'pearson',
    where: jax.Array | None = None,
) -> jax.Array:
    """Returns the representational similarity of two sets of features of the same rows.

    Compares two matrices of pairwise dissimilarities (Kriegeskorte et al. 2008). With squared
    Euclidean distances and the cosine, double centring gives the biased linear CKA, and
    U-centring the debiased one (Williams 2024, arXiv 2411.14633).

    Args:
        x: [N, P] features, any float dtype.
        y: [N, Q] features of the same rows.
        distance: 'sqeuclidean', 'euclidean', 'cosine' or 'correlation' (1 - r over features).
        centering: of the dissimilarities: None, 'double', or 'u' (zero diagonal, rows of the
            rest with mean 0).
        comparison: 'pearson', 'cosine', or 'spearman', whose ranks have gradient 0. Over the
            pairs i < j; with double centring over all entries, the diagonal included.
        where: [N] bool, False for padding rows.

    Returns:
        A float32 scalar in [-1, 1], 0 where either side is constant.

    Raises:
        ValueError: if an option is not one of those named.
    """
    check_choice('distance', distance, DISTANCES)
    check_choice('centering', centering, CENTERINGS)
    check_choice('comparison', comparison, COMPARISONS)
    chex.assert_rank([x, y], 2)
    chex.assert_equal_shape_prefix([x, y], 1)
    weights = row_weights(where, x.shape[0])
    entries = weights[:, None] * weights[None]
    if centering != 'double':
        entries = entries * (1 - jnp.eye(x.shape[0]))

    def side(features: jax.Array) -> tuple[jax.Array, jax.Array]:
        matrix = _dissimilarity(features, weights, distance)
        # What is left of a constant side after centring is rounding of the distances before it.
        magnitude = jnp.sum(jnp.square(jax.lax.stop_gradient(matrix)) * entries)
        if centering == 'double':
            matrix = _double_center(matrix, weights)
        elif centering == 'u':
            matrix = u_center(matrix, weights)
        if comparison == 'spearman':
            matrix = _average_ranks(matrix.ravel(), entries.ravel() > 0).reshape(matrix.shape)
            magnitude = jnp.float32(0.0)
        if comparison != 'cosine':
            matrix = matrix - jnp.sum(matrix * entries) / jnp.maximum(entries.sum(), 1.0)
        matrix = matrix * entries
        energy = jnp.sum(jnp.square(matrix))
        return matrix, jnp.where(energy > 1e-12 * magnitude, safe_sqrt(energy), 0.0)

    (a, a_norm), (b, b_norm) = side(x), side(y)
    return jnp.sum(safe_ratio(a, a_norm) * safe_ratio(b, b_norm))


@jax.custom_jvp
def _nuclear_norm_of_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ‖xᵀy‖_*, the sum of singular values of [P, N] @ [N, Q]."""
    return jnp.sum(jnp.linalg.svd(_core(x, y)[2], compute_uv=False))


def _core(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (a, b, c) with xᵀy = a c bᵀ and a, b orthonormal columns; c is [N, N] at most.

    The singular values of [P, Q] for P, Q > N are those of an [N, N] matrix: with xᵀ = a r_x
    and yᵀ = b r_y, xᵀy = a (r_x r_yᵀ) bᵀ.
    """

    def factor(features: jax.Array) -> tuple[jax.Array, jax.Array]:
        if features.shape[1] > features.shape[0]:
            return jnp.linalg.qr(features.T)
        return jnp.eye(features.shape[1], dtype=jnp.float32), features.T

    (a, r_x), (b, r_y) = factor(x), factor(y)
    return a, b, jnp.matmul(r_x, r_y.T, precision=HIGHEST)


@_nuclear_norm_of_product.defjvp
def _nuclear_norm_jvp(primals, tangents):
    # d‖M‖_* = <U Vᵀ, dM>. The derivatives of QR and SVD themselves are NaN for features that
    # are rank-deficient, and centred ones always are.
    (x, y), (dx, dy) = primals, tangents
    a, b, c = _core(x, y)
    u, s, vt = jnp.linalg.svd(c, full_matrices=False)
    # Directions with no singular value have no preferred rotation: gradient 0, not noise.
    present = (s > jnp.finfo(jnp.float32).eps * c.shape[0] * s[0]).astype(jnp.float32)
    au, bv = product('pi,ij->pj', a, u * present[None]), product('qi,ji->qj', b, vt)
    change = jnp.sum(product('np,pj->nj', dx, au) * product('nq,qj->nj', y, bv))
    change += jnp.sum(product('np,pj->nj', x, au) * product('nq,qj->nj', dy, bv))
    return jnp.sum(s), change


def procrustes_distance(x: jax.Array, y: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Returns the orthogonal Procrustes distance of two sets of features of the same rows.

    With both centred and scaled to unit Frobenius norm, `min_Q ‖X - Y Q‖² = 2 - 2 ‖XᵀY‖_*` over
    matrices with orthonormal rows or columns, as in Ding et al. 2021 (arXiv 2108.01661), who
    report the square. Widths may differ, as if the narrower were padded with zeros.

    Args:
        x: [N, P] features, any float dtype.
        y: [N, Q] features of the same rows.
        where: [N] bool, False for padding rows.

    Returns:
        A float32 scalar in [0, 2]: 0 for features equal up to rotation and scale; 2 where
        either side is constant.
    """
    chex.assert_rank([x, y], 2)
    chex.assert_equal_shape_prefix([x, y], 1)
    weights = row_weights(where, x.shape[0])

    def unit(features: jax.Array) -> jax.Array:
        features, _ = unit_scale(center(features, weights))
        return safe_ratio(features, safe_sqrt(jnp.sum(jnp.square(features))))

    return 2 - 2 * _nuclear_norm_of_product(unit(x), unit(y))
