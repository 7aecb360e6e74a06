"""Linear centred kernel alignment (CKA) between two sets of features of the same N rows.

`CKA(x, y) = HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y))` with linear kernels (Kornblith et al.
2019, arXiv 1905.00414). HSIC is the Hilbert-Schmidt independence criterion, biased (Gretton et
al. 2005) or debiased (HSIC₁ of Song et al. 2012, as Nguyen et al. 2021, arXiv 2010.15327).

CKA is invariant to orthogonal maps, to isotropic scale and to translation, and not to any
invertible linear map. The biased form of N rows and P ≫ N features is close to 1 for independent
features; the debiased one has mean 0, and may be negative.
"""

import dataclasses
from typing import Self

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.numerics import (
    center,
    float32,
    gram_matrix,
    product,
    row_weights,
    safe_ratio,
    safe_sqrt,
    unit_scale,
)

MIN_ROWS = 4  # HSIC₁ divides by n (n - 3).
ROUNDING = 16 * float(jnp.finfo(jnp.float32).eps)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HSIC:
    """The three HSICs of a CKA, each a float32 scalar (or an array of them under vmap).

    CKA is not linear in a minibatch, HSIC is: add the HSICs of minibatches (`+`, or `psum` over
    devices), and take `cka()` of the sum. The mean of the minibatches' CKAs is another number.
    """

    xy: jax.Array
    xx: jax.Array
    yy: jax.Array

    @classmethod
    def zero(cls) -> Self:
        """Returns the empty sum, to accumulate into."""
        return cls(*(jnp.float32(0.0) for _ in range(3)))

    def __add__(self, other: Self) -> Self:
        return jax.tree.map(jnp.add, self, other)

    def cka(self) -> jax.Array:
        """Returns `xy / sqrt(xx yy)`, and 0 where a self-HSIC is 0 (constant features)."""
        # Two roots, not the root of the product: xx yy of small features underflows.
        return safe_ratio(safe_ratio(self.xy, safe_sqrt(self.xx)), safe_sqrt(self.yy))


def _assert_rows(x: jax.Array, y: jax.Array, where: jax.Array | None, debiased: bool) -> None:
    chex.assert_rank([x, y], 2)
    chex.assert_equal_shape_prefix([x, y], 1)
    if where is not None:
        chex.assert_shape(where, (x.shape[0],))
    if debiased and x.shape[0] < MIN_ROWS:
        raise ValueError(
            f'debiased HSIC of {x.shape[0]} rows is not defined; give at least {MIN_ROWS}, or pass '
            'debiased=False'
        )


def _gram_hsic(x: jax.Array, y: jax.Array, weights: jax.Array, debiased: bool) -> list[jax.Array]:
    """Returns n²-scaled HSICs of centred [N, P], [N, Q] through their [N, N] Gram matrices."""
    grams = [gram_matrix(features) for features in (x, y)]
    if debiased:
        grams = [u_center(gram, weights) for gram in grams]
    k, l = grams  # noqa: E741 - K and L of the literature
    return [jnp.sum(k * l), jnp.sum(k * k), jnp.sum(l * l)]


def u_center(gram: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns a symmetric [N, N] matrix U-centred over its valid rows (Székely & Rizzo 2014).

    Zero diagonal, and every row of the rest has mean 0. HSIC₁ is the inner product of two
    U-centred Gram matrices over n (n - 3); formed this way the large common offset of the
    entries, about -P/n, leaves before anything is squared.
    """
    off_diagonal = weights[:, None] * weights[None] * (1 - jnp.eye(gram.shape[0]))
    n = weights.sum()
    gram = gram * off_diagonal
    rows = gram.sum(axis=1) / jnp.maximum(n - 2, 1.0)
    total = rows.sum() / jnp.maximum(n - 1, 1.0)
    return (gram - rows[:, None] - rows[None] + total) * off_diagonal


def _feature_hsic(
    x: jax.Array, y: jax.Array, weights: jax.Array, debiased: bool
) -> list[jax.Array]:
    """Returns n²-scaled HSICs of centred [N, P], [N, Q] through their [P, Q] products.

    `tr(KL) = ‖XᵀY‖²`. With centred rows a zero-diagonal Gram matrix has row sums -K_ii, so
    n (n - 3) HSIC₁ = `‖XᵀY‖² - n/(n-2) Σ_i K_ii L_ii + Σ K_ii Σ L_ii / ((n-1)(n-2))`.
    """
    n = weights.sum()
    diagonals = [jnp.sum(jnp.square(features), axis=1) for features in (x, y)]

    def hsic(a: jax.Array, b: jax.Array, a_diagonal: jax.Array, b_diagonal: jax.Array) -> jax.Array:
        products = gram_matrix(a.T) if a is b else product('np,nq->pq', a, b)
        frobenius = jnp.sum(jnp.square(products))
        if not debiased:
            return frobenius
        diagonal = jnp.sum(a_diagonal * b_diagonal) * n / jnp.maximum(n - 2, 1.0)
        traces = a_diagonal.sum() * b_diagonal.sum()
        return frobenius - diagonal + traces / jnp.maximum((n - 1) * (n - 2), 1.0)

    dx, dy = diagonals
    return [hsic(x, y, dx, dy), hsic(x, x, dx, dx), hsic(y, y, dy, dy)]


def hsic(
    x: jax.Array, y: jax.Array, *, debiased: bool = True, where: jax.Array | None = None
) -> HSIC:
    """Returns the three HSICs of two sets of features, to add over minibatches.

    Features are centred first: the debiased form does not change by it, but in float32 a
    feature mean of 30 times the spread would leave no digits. Uses Gram matrices, n²(P + Q)
    operations, or feature products, n(P² + PQ + Q²), whichever costs less. A minibatch with
    fewer than 4 valid rows (2 where biased), or with constant features, adds 0 to each sum. The
    sums hold fourth powers: scale features outside 1e-7 to 1e7 first, by one number for all.

    Args:
        x: [N, P] features, any float dtype.
        y: [N, Q] features of the same rows.
        debiased: HSIC₁ rather than HSIC₀.
        where: [N] bool, False for padding rows.

    Returns:
        An `HSIC` of float32 scalars.

    Raises:
        ValueError: if N < 4 where debiased.
    """
    scaled, x_scale, y_scale = _scaled_hsic(x, y, debiased, where)
    xx, yy = jnp.square(x_scale), jnp.square(y_scale)
    return HSIC(scaled.xy * xx * yy, scaled.xx * xx * xx, scaled.yy * yy * yy)


def _scaled_hsic(
    x: jax.Array,
    y: jax.Array,
    debiased: bool,
    where: jax.Array | None,
    x_mask: jax.Array | None = None,
    y_mask: jax.Array | None = None,
) -> tuple[HSIC, jax.Array, jax.Array]:
    """Returns the HSICs of features scaled to unit size, and the two scales.

    A self-HSIC that is no more than the rounding of its own terms becomes 0, and takes the
    cross-HSIC with it: constant features, or a single outlier, whose debiased HSIC is 0.
    """
    _assert_rows(x, y, where, debiased)
    rows, p, q = x.shape[0], x.shape[1], y.shape[1]
    weights = row_weights(where, rows)
    x, y = center(x, weights), center(y, weights)
    # Columns are selected after centring, so that a column's own mean decides if it is constant.
    x = x if x_mask is None else x * x_mask[None]
    y = y if y_mask is None else y * y_mask[None]
    (x, x_scale), (y, y_scale) = unit_scale(x), unit_scale(y)
    gram_is_cheaper = rows * (p + q) < p * p + p * q + q * q
    n = weights.sum()
    traces = [jnp.sum(jnp.square(jax.lax.stop_gradient(features))) for features in (x, y)]
    if gram_is_cheaper:
        xy, xx, yy = _gram_hsic(x, y, weights, debiased)
        floor = [ROUNDING**2 * jnp.square(trace) for trace in traces]
    else:
        xy, xx, yy = _feature_hsic(x, y, weights, debiased)
        floor = [ROUNDING * jnp.square(trace) / jnp.maximum(n, 1.0) for trace in traces]
    least = MIN_ROWS if debiased else 2
    normalizer = n * (n - 3) if debiased else jnp.square(n - 1)
    defined = n >= least
    normalizer = jnp.where(defined, normalizer, 1.0)
    x_varies, y_varies = defined & (xx > floor[0]), defined & (yy > floor[1])
    return (
        HSIC(
            jnp.where(x_varies & y_varies, xy / normalizer, 0.0),
            jnp.where(x_varies, xx / normalizer, 0.0),
            jnp.where(y_varies, yy / normalizer, 0.0),
        ),
        x_scale,
        y_scale,
    )


def linear_cka(
    x: jax.Array, y: jax.Array, *, debiased: bool = True, where: jax.Array | None = None
) -> jax.Array:
    """Returns the linear CKA of two sets of features of the same rows.

    Differentiable in x and y, never clipped (a clip ends the gradient of a debiased value below
    0), and the same number where the rows are sharded over a mesh under `jax.jit`. Leave BOS
    out: one outlier that both share gives a biased CKA of .9998 among 64 rows.

    Args:
        x: [N, P] features, any float dtype.
        y: [N, Q] features of the same rows; the widths may differ.
        debiased: HSIC₁ rather than HSIC₀.
        where: [N] bool, False for padding rows, whose content does not matter.

    Returns:
        A float32 scalar: 1 for equal features up to rotation and scale; 0 where it is not
        defined (constant features, or fewer than 4 valid rows, 2 where biased).

    Raises:
        ValueError: if N < 4 where debiased.
    """
    scaled, _, _ = _scaled_hsic(x, y, debiased, where)
    return scaled.cka()


def masked_cka(
    x: jax.Array,
    y: jax.Array,
    *,
    debiased: bool,
    where: jax.Array,
    x_mask: jax.Array | None,
    y_mask: jax.Array | None,
) -> jax.Array:
    """Returns `linear_cka` of weighted columns: [N, P] * x_mask [P] and [N, Q] * y_mask [Q]."""
    scaled, _, _ = _scaled_hsic(x, y, debiased, where, x_mask, y_mask)
    return scaled.cka()


def cka_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    debiased: bool = True,
    where: jax.Array | None = None,
) -> jax.Array:
    """Returns `1 - CKA(student, teacher)`, with the teacher's gradient stopped.

    Args:
        student: [N, P] features, not detached: a detached student is a number that trains
            nothing, which `cdjax.training.diagnostics.gradient_report` finds.
        teacher: [N, Q] features of the same rows.
        debiased: HSIC₁ rather than HSIC₀.
        where: [N] bool, False for padding rows.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: if N < 4 where debiased.
    """
    teacher = jax.lax.stop_gradient(teacher)
    return 1 - linear_cka(student, teacher, debiased=debiased, where=where)


def minibatch_cka(
    x: jax.Array, y: jax.Array, *, debiased: bool = True, where: jax.Array | None = None
) -> jax.Array:
    """Returns the CKA over minibatches: the three HSICs are averaged, then the ratio is taken.

    Nguyen et al. 2021 (arXiv 2010.15327), eq. 2. To stream the minibatches, sum `hsic(x, y)`
    and call `.cka()` on the sum.

    Args:
        x: [M, N, P] features of M minibatches.
        y: [M, N, Q] features of the same rows.
        debiased: HSIC₁, whose average does not depend on the minibatch size.
        where: [M, N] bool, False for padding rows.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: if N < 4 where debiased.
    """
    chex.assert_rank([x, y], 3)
    chex.assert_equal_shape_prefix([x, y], 2)
    where = jnp.ones(x.shape[:2], bool) if where is None else where
    chex.assert_shape(where, x.shape[:2])
    # One scale for all minibatches: it leaves the ratio, and the fourth powers in range.
    x, y = (unit_scale(jnp.where(where[..., None], f, 0.0))[0] for f in float32(x, y))
    batches = jax.lax.map(
        lambda xyw: hsic(*xyw[:2], debiased=debiased, where=xyw[2]), (x, y, where)
    )
    return jax.tree.map(jnp.sum, batches).cka()
