"""Discovery losses of the masks alone: how binary, how dense, how much alike.

`m` is [K, D] or [K, L, F] in [0, 1]: K classes, D = L·F neurons.
"""

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.numerics import (
    float32,
    gram_matrix,
    safe_log,
    safe_ratio,
    safe_sqrt,
    unit_peak,
)


def flat_masks(masks: jax.Array) -> jax.Array:
    """Returns masks [K, D] or [K, L, F] as float32 [K, D]."""
    chex.assert_rank(masks, {2, 3})
    (masks,) = float32(masks)
    return masks.reshape(masks.shape[0], -1)


def _binary_kl(probability: jax.Array, target: float | jax.Array) -> jax.Array:
    """Returns KL(Bernoulli(probability) ‖ Bernoulli(target)), finite at 0 and 1."""
    if isinstance(target, int | float) and not 0 < target < 1:
        raise ValueError(f'target={target} is no density; expected a number inside (0, 1)')
    p, q = probability, 1 - probability
    return p * (safe_log(p) - jnp.log(target)) + q * (safe_log(q) - jnp.log1p(-target))


def sparsity_loss(masks: jax.Array) -> jax.Array:
    """Returns the published sparsity term, the mean binary entropy of the mask weights, in nats.

    `-(1/K) Σ_k (1/D) Σ_d [m log m + (1-m) log(1-m)]` (§4.3.3). It makes masks binary, not
    sparse: a mask of ones has the minimum 0.

    Args:
        masks: [K, D] or [K, L, F] in [0, 1].

    Returns:
        A float32 scalar in [0, log 2].
    """
    m = flat_masks(masks)
    return -jnp.mean(m * safe_log(m) + (1 - m) * safe_log(1 - m))


def prior_kl(masks: jax.Array, target: float | jax.Array) -> jax.Array:
    """Returns the published KL of the mean mask weight from its target, in nats.

    `m̄ log(m̄/π) + (1-m̄) log((1-m̄)/(1-π))`, m̄ the mean of all K·D weights (§4.3.4). One full
    class and K - 1 empty ones satisfy it; `density_kl` is the corrected one.

    Args:
        masks: [K, D] or [K, L, F] in [0, 1].
        target: the density π, inside (0, 1).

    Returns:
        A float32 scalar >= 0.

    Raises:
        ValueError: if a target given as a number is not inside (0, 1).
    """
    return _binary_kl(flat_masks(masks).mean(), target)


def density_kl(
    masks: jax.Array, target: float | jax.Array, *, per_layer: bool = False
) -> jax.Array:
    """Returns the KL of each class's mean mask weight from its target, averaged, in nats.

    `mean_k KL(Bernoulli(m̄_k) ‖ Bernoulli(π))`, and per layer `mean_{k,l}` with m̄_{k,l}.

    Args:
        masks: [K, D] or [K, L, F] in [0, 1].
        target: the density π, inside (0, 1).
        per_layer: ask each layer of each class for the density; needs [K, L, F].

    Returns:
        A float32 scalar >= 0.

    Raises:
        ValueError: if a target given as a number is not inside (0, 1), or if `per_layer` is
            asked of masks without a layer axis.
    """
    chex.assert_rank(masks, {2, 3})
    if per_layer and masks.ndim == 2:
        raise ValueError(
            f'per_layer=True needs masks [K, L, F], got shape {masks.shape}; reshape them'
        )
    (m,) = float32(masks)
    return _binary_kl(m.mean(axis=-1 if per_layer else tuple(range(1, m.ndim))), target).mean()


def mask_overlap(masks: jax.Array, *, normalize: bool = False) -> jax.Array:
    """Returns the published overlap of masks, the mean dot product of two classes' masks.

    `1/(K(K-1)) Σ_{k1≠k2} m_k1 · m_k2` (§4.3.5); 0 at K = 1. The dot product grows with D.

    Args:
        masks: [K, D] or [K, L, F].
        normalize: take the cosine instead, in [0, 1] for masks in [0, 1]; a zero mask counts 0.

    Returns:
        A float32 scalar.
    """
    m = flat_masks(masks)
    classes = m.shape[0]
    if classes == 1:
        return jnp.float32(0.0) * m.sum()
    if normalize:
        m = unit_peak(m)
        m = m * safe_ratio(jnp.float32(1.0), safe_sqrt(jnp.sum(jnp.square(m), axis=1)))[:, None]
    overlaps = jnp.where(jnp.eye(classes, dtype=bool), 0.0, gram_matrix(m))
    return jnp.sum(overlaps) / (classes * (classes - 1))
