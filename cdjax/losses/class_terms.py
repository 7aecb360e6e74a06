"""Discovery losses of the classes: how evenly used, how sure, and how alike their members are.

`a` [N, D] activations, `z` [N, K] assignments (one-hot rows with a straight-through gradient),
`m` [K, D] masks (or [K, L, F], L·F = D), N_k = Σ_i z[i, k], f_k = N_k / N. Of N, problems count
for which `where` holds; the rest is padding.
"""

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.mask_terms import flat_masks
from cdjax.losses.numerics import (
    center,
    float32,
    mean_rows,
    product,
    row_weights,
    safe_log,
    safe_ratio,
    safe_sqrt,
    unit_peak,
    valid_rows,
)

# A straight-through one-hot, `hard + soft - stop_gradient(soft)`, is 1 to rounding only, and a
# class of two must not fall below 2 by it.
PAIR = 2 - 1e-3


def _problems(activations, assignments, masks, where) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a [N, D], z [N, K] and m [K, D] in float32, padding rows 0."""
    m = flat_masks(masks)
    chex.assert_rank([activations, assignments], 2)
    chex.assert_equal_shape_prefix([activations, assignments], 1)
    chex.assert_equal(m.shape, (assignments.shape[1], activations.shape[1]))
    a, z = (valid_rows(x, where) for x in float32(activations, assignments))
    return a, z, m


def usage_entropy(assignments: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Returns the published usage term, the entropy of the class frequencies, in nats.

    `-Σ_k f_k log f_k` (§4.3.2). Minimising it with a positive weight collapses the classes into
    one; subtract it, or use `mutual_information_loss`.

    Args:
        assignments: [N, K] one-hot or soft rows.
        where: [N] bool, False for padding rows.

    Returns:
        A float32 scalar in [0, log K].
    """
    chex.assert_rank(assignments, 2)
    f = mean_rows(*float32(assignments), where)
    return -jnp.sum(f * safe_log(f))


def mutual_information_loss(
    probabilities: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Returns minus the mutual information of class and problem, in nats.

    `-I = mean_i H(p_i) - H(mean_i p_i)` (Bridle et al. 1991; Krause et al. 2010, "RIM"): low
    when each problem is sure of its class and the classes are used evenly. Pass the softmax of
    the classifier, never Gumbel samples: their noise alone keeps the usage near log K while the
    classifier learns nothing.

    Args:
        probabilities: [N, K] rows that sum to 1.
        where: [N] bool, False for padding rows.

    Returns:
        A float32 scalar in [-log K, 0].
    """
    chex.assert_rank(probabilities, 2)
    p = valid_rows(*float32(probabilities), where)
    conditional = -mean_rows(jnp.sum(p * safe_log(p), axis=1), where)
    marginal = mean_rows(p, where)
    return conditional + jnp.sum(marginal * safe_log(marginal))


def similarity_loss(
    activations: jax.Array,
    assignments: jax.Array,
    masks: jax.Array,
    *,
    normalize: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
    """Returns the published similarity term, minus the energy that class members share.

    `-(1/K) Σ_k 1/(N_k (N_k - 1)) Σ_d (Σ_{i in k} |m[k,d] a[i,d]|)²` (§4.3.1). A class with
    N_k < 2 contributes 0 and still counts in K. The term contains the pairs i = j, drops the
    sign and grows with D and a²; `contrastive_similarity` is the corrected one.

    Args:
        activations: [N, D].
        assignments: [N, K] one-hot rows; soft rows are summed as they are.
        masks: [K, D] or [K, L, F].
        normalize: use the cosine form, `-(1/K) Σ_k mean_{i≠j in k} cos(m_k⊙a_i, m_k⊙a_j)`,
            signed, which the authors' weights are meant for.
        where: [N] bool, False for padding rows.

    Returns:
        A float32 scalar.
    """
    a, z, m = _problems(activations, assignments, masks, where)
    counts = z.sum(axis=0)
    paired = counts >= PAIR
    if normalize:
        within, _ = _class_cosines(a, z, m, where)
        return -jnp.mean(jnp.where(paired, within, 0.0))
    energy = jnp.sum(jnp.square(m * product('nk,nd->kd', z, jnp.abs(a))), axis=1)
    pairs = jnp.where(paired, counts * (counts - 1), 0.0)
    return -jnp.mean(safe_ratio(energy, pairs))


def contrastive_similarity(
    activations: jax.Array,
    assignments: jax.Array,
    masks: jax.Array,
    *,
    standardized: bool = False,
    where: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns how alike a class is under its mask against how alike it is to the others, negated.

    With ã the activations standardised over all N problems, the mean over classes of
    `-mean_{i≠j in k} cos(m_k⊙ã_i, m_k⊙ã_j) + mean_{i in k, j not in k} cos(m_k⊙ã_i, m_k⊙ã_j)`.
    Standardising keeps the loudest neurons from deciding every cosine. A class with fewer than
    two problems is left out of the mean and counted; one that holds all problems has no second
    part. The cost is O(N·K·D); the largest temporary is [N, D].

    Args:
        activations: [N, D].
        assignments: [N, K] one-hot rows with a straight-through gradient, or soft rows.
        masks: [K, D] or [K, L, F].
        standardized: True where the caller has standardised the activations already, over more
            problems than this batch holds.
        where: [N] bool, False for padding rows.

    Returns:
        The float32 loss in [-2, 2], 0 where every class is left out; and `classes_left_out`, their
        float32 number.
    """
    a, z, m = _problems(activations, assignments, masks, where)
    a = a if standardized else standardize(a, where=where)
    within, between = _class_cosines(a, z, m, where)
    kept = z.sum(axis=0) >= PAIR
    value = safe_ratio(
        jnp.sum(jnp.where(kept, between - within, 0.0)), jnp.sum(kept, dtype=jnp.float32)
    )
    return value, {'classes_left_out': jnp.sum(~kept, dtype=jnp.float32)}


def standardize(activations: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Returns activations with mean 0 and variance 1 per neuron; a constant neuron becomes 0.

    Args:
        activations: [N, D], any float dtype.
        where: [N] bool, False for padding rows, which become 0.

    Returns:
        [N, D] float32.
    """
    chex.assert_rank(activations, 2)
    centered = center(activations, row_weights(where, len(activations)))
    # Divide before squaring: a dead neuron's 1e-25 would underflow, a loud one's 1e25 overflow.
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(centered), axis=0))
    scaled = centered * safe_ratio(jnp.float32(1.0), peak)[None]
    deviation = safe_sqrt(mean_rows(jnp.square(scaled), where))
    return scaled * safe_ratio(jnp.float32(1.0), deviation)[None]


def _class_cosines(
    a: jax.Array, z: jax.Array, m: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns mean cosines of masked rows within each class and between it and the rest.

    With unit vectors u_i = m_k⊙a_i / ‖m_k⊙a_i‖, sums over pairs are products of sums:
    `Σ_{i≠j} z_i z_j u_i·u_j = ‖Σ z_i u_i‖² - Σ z_i² ‖u_i‖²`. The norms are one product of [N, D]
    with [D, K] and the sums one of [K, N] with [N, D], so the cost is O(N·K·D), and neither
    [N, N, D] nor [K, N, D] exists. Pairs i = j are left out for soft assignments too: kept, they
    would add z_i (1 - z_i), whose gradient is not 0 at a one-hot row. A row whose masked
    activations are all 0 has cosine 0 with everything.

    Args:
        a: [N, D] float32 activations.
        z: [N, K] float32 assignments.
        m: [K, D] float32 masks.
        where: [N] bool; of a and z, padding rows are 0.

    Returns:
        within [K] and between [K], 0 where there are no pairs.
    """
    a, m = unit_peak(a), unit_peak(m)
    norms = safe_sqrt(product('nd,kd->nk', jnp.square(a), jnp.square(m)))
    inverse = safe_ratio(jnp.float32(1.0), norms)
    nonzero = (norms > 0).astype(jnp.float32)
    rest = valid_rows(1 - z, where)
    inside = m * product('nk,nd->kd', z * inverse, a)
    outside = m * product('nk,nd->kd', rest * inverse, a)
    count, others = z.sum(axis=0), rest.sum(axis=0)
    within_pairs = jnp.square(count) - jnp.sum(jnp.square(z), axis=0)
    between_pairs = count * others - jnp.sum(z * rest, axis=0)
    within = jnp.sum(jnp.square(inside), axis=1) - jnp.sum(jnp.square(z) * nonzero, axis=0)
    between = jnp.sum(inside * outside, axis=1) - jnp.sum(z * rest * nonzero, axis=0)
    # Fewer pairs than half a row's worth is rounding, not a pair.
    return (
        safe_ratio(within, jnp.where(within_pairs > 0.5, within_pairs, 0.0)),
        safe_ratio(between, jnp.where(between_pairs > 0.5, between_pairs, 0.0)),
    )
