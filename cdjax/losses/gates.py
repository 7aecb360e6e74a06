"""Gates: which neurons of a circuit are open, exactly in the forward pass and softly backward.

Every function works on scores with any leading axes, and counts neurons over the axes that it is
told: one, or layers and neurons of a layer. What it needs of them are sums, never a sort or a
running sum, so that scores whose neurons are split over devices stay where they are: a sum of the
parts is all that travels. Sizes may be traced, one for each leading entry: a single compilation
serves all of them.
"""

import math
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.numerics import float32, safe_ratio

Axis = int | Sequence[int]

# Halvings of the bracket of a threshold: 2^-40 of the range of the scores is below the resolution
# of float32 wherever in the range it lies.
_HALVINGS = 40

# A logit of what does not happen, finite so that its gradient is 0.
_NEVER = -1e30


def top_k_mask(scores: jax.Array, size: int | jax.Array, *, axis: Axis = -1) -> jax.Array:
    """Returns 1 for the `size` neurons with the highest scores and 0 for the others.

    Of equal scores the earlier neuron is taken (the order is that of `axis`, last one fastest), so
    that the size is exact. The threshold is found bit by bit, and then the last of those that
    share it: `32 + log2(D)` counts, and no gradient.

    Args:
        scores: [..., D], or with two axes [..., L, F]; finite, or infinite.
        size: integers that broadcast to the leading axes; 0 opens none, D or more opens all.
        axis: the axes that count neurons.

    Returns:
        float32, of the shape of the scores.

    Raises:
        ValueError: a size given as a number that is negative or more than D.
    """
    axes, (s,) = _axes(scores, axis), float32(jax.lax.stop_gradient(scores))
    total, wanted = _count(s, axes), _leading(size, s, axes)
    # Unsigned integers in the order of the numbers; -0 is 0.
    bits = jax.lax.bitcast_convert_type(jnp.where(s == 0, 0.0, s), jnp.uint32)
    top = jnp.uint32(2**31)
    keys = jnp.where(bits >= top, ~bits, bits | top)
    count = lambda chosen: jnp.sum(chosen, axis=axes, keepdims=True, dtype=jnp.int32)

    def raise_threshold(i, threshold):
        higher = threshold | (top >> i.astype(jnp.uint32))
        return jnp.where(count(keys >= higher) >= wanted, higher, threshold)

    start = jnp.zeros_like(count(s == s), jnp.uint32)
    threshold = jax.lax.fori_loop(0, 32, raise_threshold, start)
    above, tied = keys > threshold, keys == threshold
    missing, order = wanted - count(above), _order(s, axes)
    # The largest end before which no more of the tied ones lie than are missing.
    digits = total.bit_length()

    def raise_end(i, end):
        later = end | (1 << (digits - 1 - i))
        return jnp.where(count(tied & (order < later)) <= missing, later, end)

    end = jax.lax.fori_loop(0, digits, raise_end, jnp.zeros_like(missing))
    return (above | (tied & (order < end))).astype(jnp.float32)


def soft_top_k(
    scores: jax.Array, size: int | jax.Array, *, temperature: float | jax.Array, axis: Axis = -1
) -> jax.Array:
    """Returns gates in (0, 1) that sum to `size`, higher for higher scores.

    `p = σ((s - τ) / T)` with τ such that `Σ p = size`. By the implicit function theorem
    `∂τ = Σ w ∂s / Σ w` with `w = p (1 - p)`, so a gradient g comes back as
    `w / T · (g - Σ w g / Σ w)`, which sums to 0: what one neuron gains the others lose.

    Args:
        scores: [..., D], or with two axes [..., L, F]; up to 1e37 in size.
        size: integers that broadcast to the leading axes, from 1 to D - 1. At 0 and at D, where
            there is no finite τ, the gates sum to less than 1e-6 and to more than D - 1e-6.
        temperature: T > 0, without a gradient.
        axis: the axes that count neurons.

    Returns:
        float32, of the shape of the scores.

    Raises:
        ValueError: as `top_k_mask`, or a temperature given as a number that is not above 0.
    """
    mask = top_k_mask(scores, size, axis=axis)
    return _soft_top_k(scores, mask, size, temperature, axis)


def top_k_gate(
    scores: jax.Array, size: int | jax.Array, *, temperature: float | jax.Array, axis: Axis = -1
) -> jax.Array:
    """Returns the mask of exactly the `size` highest scores, with the gradient of `soft_top_k`.

    The forward pass is `top_k_mask`, the backward pass is that of the soft gates (a
    straight-through estimator): a neuron is pulled in or pushed out as far as its score lies within
    a few temperatures of the threshold.

    Args:
        scores: [..., D], or with two axes [..., L, F]; up to 1e37 in size.
        size: integers that broadcast to the leading axes, from 1 to D - 1.
        temperature: T > 0 of the backward pass.
        axis: the axes that count neurons.

    Returns:
        float32, of the shape of the scores.

    Raises:
        ValueError: as `soft_top_k`.
    """
    mask = top_k_mask(scores, size, axis=axis)
    soft = _soft_top_k(scores, mask, size, temperature, axis)
    # In brackets, for `mask + soft - soft` is 1 up to rounding only.
    return mask + (soft - jax.lax.stop_gradient(soft))


def membership_scores(logits: jax.Array) -> jax.Array:
    """Returns the log-odds of each neuron to be in the circuit of each class, shared or its own.

    Of each neuron a softmax q over none, shared, 1..K, with the logit of none at 0: the circuit of
    class k has what is shared and what is its own, `s_k = log (q_0 + q_k) / (1 - q_0 - q_k)`.

    Args:
        logits: [..., 1 + K, L, F], shared first.

    Returns:
        float32 [..., K, L, F].
    """
    (x,) = float32(logits)
    shared, own, axis = x[..., :1, :, :], x[..., 1:, :, :], x.ndim - 3
    # Outside of the circuit of k: none, the classes before it, those behind it. What is taken off
    # the total instead would be lost in rounding where k is sure.
    none, nothing = jnp.zeros_like(shared), jnp.full_like(shared, _NEVER)
    to = lambda rows, **how: jax.lax.cumlogsumexp(jnp.concatenate(rows, axis), axis=axis, **how)
    before = to([none, own[..., :-1, :, :]])
    behind = to([own[..., 1:, :, :], nothing], reverse=True)
    return jnp.logaddexp(shared, own) - jnp.logaddexp(before, behind)


def hard_concrete_gate(
    logits: jax.Array,
    noise: jax.Array | None = None,
    *,
    temperature: float = 2 / 3,
    low: float = -0.1,
    high: float = 1.1,
) -> jax.Array:
    """Returns hard-concrete gates, which are 0 and 1 with a probability of their own.

    `clip(σ((log α + noise) / β) (ζ - γ) + γ, 0, 1)` (Louizos et al. 2018, arXiv 1712.01312, eq.
    10 and 11), and without noise `clip(σ(log α) (ζ - γ) + γ, 0, 1)`, their gate of a trained model
    (eq. 13).

    Args:
        logits: log α, any shape.
        noise: standard logistic noise of the same shape (`jax.random.logistic`).
        temperature: β.
        low: γ < 0.
        high: ζ > 1.

    Returns:
        float32 in [0, 1], of the shape of the logits.
    """
    (x,) = float32(logits)
    if noise is not None:
        chex.assert_equal_shape([logits, noise])
        x = (x + noise) / temperature
    return jnp.clip(jax.nn.sigmoid(x) * (high - low) + low, 0.0, 1.0)


def hard_concrete_open(
    logits: jax.Array, *, temperature: float = 2 / 3, low: float = -0.1, high: float = 1.1
) -> jax.Array:
    """Returns the probability that a hard-concrete gate is not 0, `σ(log α - β log(-γ / ζ))`.

    Their sum is the expected size of the circuit (Louizos et al. 2018, arXiv 1712.01312, eq. 12).

    Args:
        logits: log α, any shape.
        temperature: β of `hard_concrete_gate`.
        low: its γ.
        high: its ζ.

    Returns:
        float32 in (0, 1), of the shape of the logits.
    """
    (x,) = float32(logits)
    return jax.nn.sigmoid(x - temperature * math.log(-low / high))


def log_uniform_sizes(
    key: jax.Array, count: int, smallest: int | jax.Array, largest: int | jax.Array
) -> jax.Array:
    """Draws sizes whose logarithms are uniform, one from each of `count` equal strata.

    Args:
        key: PRNG key.
        count: how many (G).
        smallest: the smallest size, at least 1.
        largest: the largest.

    Returns:
        int32 [G], ascending, each from `smallest` to `largest`.
    """
    quantiles = (jnp.arange(count) + jax.random.uniform(key, (count,))) / count
    first, last = (jnp.log(jnp.asarray(size, jnp.float32)) for size in (smallest, largest))
    sizes = jnp.round(jnp.exp(first + quantiles * (last - first)))
    return jnp.clip(sizes, smallest, largest).astype(jnp.int32)


def _soft_top_k(scores, mask, size, temperature, axis):
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f'temperature={temperature} must be above 0')
    axes, (s,) = _axes(scores, axis), float32(scores)
    fixed, temperature = jax.lax.stop_gradient(s), jax.lax.stop_gradient(temperature)
    total = lambda y: jnp.sum(y, axis=axes, keepdims=True)
    # Seen from the lowest score that is in the mask, near which the threshold lies: float32 is
    # fine there, wherever the scores are.
    lowest = jnp.min(jnp.where(mask > 0, fixed, jnp.inf), axis=axes, keepdims=True)
    lowest = jnp.where(jnp.isinf(lowest), jnp.max(fixed, axis=axes, keepdims=True), lowest)
    height = fixed - lowest
    threshold = _threshold(height, mask, size, temperature, axes)
    x = (height - threshold) / temperature
    # p (1 - p) without cancellation, and as shares of its sum, 0 where all gates are saturated.
    weights = jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)
    shares = safe_ratio(weights, jnp.broadcast_to(total(weights), weights.shape))
    # 0, with the gradient of the score less that of the threshold, as the theorem has it.
    moving = s - fixed
    moving = moving - total(shares * moving)
    return jax.nn.sigmoid(x + moving / temperature)


def _threshold(s, mask, size, temperature, axes):
    """Returns τ with `Σ_i σ((s_i - τ) / T) = size`, by bisection.

    Written as `Σ_outside p = Σ_inside (1 - p)` for the mask of the highest `size` scores: sums of
    small numbers, which see a crossing where `Σ p` itself is `size` up to rounding.
    """
    inside = mask > 0
    chosen = _leading(size, s, axes).astype(jnp.float32)
    rest = _count(s, axes) - chosen
    # If all scores were equal, τ were this much below them: it brackets τ from both sides.
    offset = temperature * jnp.log(jnp.maximum(chosen, 1e-6) / jnp.maximum(rest, 1e-6))
    low = jnp.min(s, axis=axes, keepdims=True) - offset
    high = jnp.max(s, axis=axes, keepdims=True) - offset

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        x = (s - middle) / temperature
        surplus = jnp.where(inside, -jax.nn.sigmoid(-x), jax.nn.sigmoid(x))
        surplus = jnp.sum(surplus, axis=axes, keepdims=True)
        # 0 all over a wide gap between the highest scores and the rest: then halfway is τ.
        return jnp.where(surplus >= 0, middle, low), jnp.where(surplus <= 0, middle, high)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return (low + high) / 2


def _axes(scores: jax.Array, axis: Axis) -> tuple[int, ...]:
    """Returns the axes that count neurons, from the first."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    return tuple(a % jnp.ndim(scores) for a in axes)


def _count(s: jax.Array, axes: tuple[int, ...]) -> int:
    return math.prod(s.shape[a] for a in axes)


def _leading(size: int | jax.Array, s: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns sizes int32 that broadcast against the scores, one that is a number checked."""
    if isinstance(size, int) and not 0 <= size <= _count(s, axes):
        raise ValueError(f'size={size}: expected a number of neurons from 0 to {_count(s, axes)}')
    leading = [n for a, n in enumerate(s.shape) if a not in axes]
    sizes = jnp.broadcast_to(jnp.asarray(size, jnp.int32), leading)
    return jnp.expand_dims(sizes, axes)


def _order(s: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns the number of each neuron, int32 of the shape of the scores."""
    order = jnp.zeros(s.shape, jnp.int32)
    for a in axes:
        order = order * s.shape[a] + jax.lax.broadcasted_iota(jnp.int32, s.shape, a)
    return order
