"""The numerical ground of the losses: float32 products, logarithms at zero, centring.

Every rule here exists because leaving it out has given somebody a NaN or a wrong number:

* Products run at HIGHEST precision. TPUs multiply float32 in bfloat16 by default, GPUs in TF32.
* A square root or a logarithm is guarded by two `where`s, one on its argument and one on its
  result. With the outer one alone the derivative is still `0 * inf = NaN`.
* A column whose spread is within float32 rounding of its magnitude is constant, and becomes 0.
  The mean of equal numbers is off by about 1e-7 of them, and without this rule a ratio would
  scale that residue up to a feature like any other.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
# A float32 column whose spread is this far below its magnitude holds nothing but rounding.
CONSTANT_SPREAD = 1e-6


def product(subscripts: str, *operands: jax.Array) -> jax.Array:
    """Returns `jnp.einsum` of float32 operands at HIGHEST precision."""
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


@jax.custom_jvp
def gram_matrix(x: jax.Array) -> jax.Array:
    """Returns x xᵀ `[N, N]` of float32 `[N, P]` at HIGHEST precision.

    Its gradient is one product, (G + Gᵀ) x, where that of `product` of x with itself is two.
    """
    return product('np,mp->nm', x, x)


@gram_matrix.defjvp
def _gram_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    half = product('np,mp->nm', dx, x)
    return gram_matrix(x), half + half.T


def float32(*arrays: jax.Array) -> list[jax.Array]:
    """Returns the arrays as float32: bfloat16 inputs are summed in float32 too."""
    return [jnp.asarray(array).astype(jnp.float32) for array in arrays]


def safe_log(x: jax.Array) -> jax.Array:
    """Returns log x for x >= 0, with the smallest normal number in place of anything below it.

    `p * safe_log(p)` is exactly 0 at p = 0 and its derivative there is large (about -87) but
    finite, so an empty class still feels a pull; the limit of the true derivative is infinite.
    """
    tiny = jnp.finfo(jnp.float32).tiny
    positive = x > tiny
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), jnp.log(tiny))


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Returns sqrt x where x > 0 and 0 elsewhere, with gradient 0 there."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def safe_ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Returns numerator / denominator where the denominator is positive, and 0 elsewhere."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1.0), 0.0)


def row_weights(where: jax.Array | None, rows: int) -> jax.Array:
    """Returns the float32 weights 1 (valid) and 0 (padding) of a `where` mask, [N] if None."""
    if where is None:
        return jnp.ones(rows, jnp.float32)
    return (jnp.asarray(where) > 0.5).astype(jnp.float32)


def valid_rows(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """Returns x [N, ...] with its padding rows set to 0: no NaN of theirs reaches a gradient.

    With a `where` [N, A] likewise its tokens that do not count, of x [N, A, ...].
    """
    if where is None:
        return x
    valid = row_weights(where, len(x)) > 0
    return jnp.where(jnp.expand_dims(valid, range(valid.ndim, x.ndim)), x, 0.0)


def mean_rows(values: jax.Array, where: jax.Array | None) -> jax.Array:
    """Returns the mean of [N, ...] values over valid rows, 0 where there are none."""
    if where is None:
        return values.mean(axis=0)
    return safe_ratio(valid_rows(values, where).sum(axis=0), row_weights(where, len(values)).sum())


def mean_answers(values: jax.Array, where: jax.Array | None) -> jax.Array:
    """Returns the mean over problems of [N] values, one for each answer.

    Of [N, A] values, one for each token, it is the mean over problems of the mean over the tokens
    that a problem's answer has: all problems count the same, however long their answers are.

    Args:
        values: [N] or [N, A].
        where: bool of the same shape, False for padding; all count if None.
    """
    if values.ndim == 1:
        return mean_rows(values, where)
    if where is None:
        return mean_rows(values.mean(axis=1), None)
    tokens_N = row_weights(where, len(values)).sum(axis=1)
    own_N = safe_ratio(valid_rows(values, where).sum(axis=1), tokens_N)
    return mean_rows(own_N, tokens_N > 0)


def center(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns features centred over their valid rows; constant columns and padding become 0.

    Args:
        x: [N, P] features, any float dtype.
        weights: [N] float32, 1 for a valid row and 0 for padding.

    Returns:
        [N, P] float32.
    """
    (x,) = float32(x)
    valid = weights[:, None] > 0
    count = jnp.maximum(weights.sum(), 1.0)
    # Padding may hold anything, infinities included: select, never multiply.
    x = jnp.where(valid, x, 0.0)
    magnitude = jnp.sum(jnp.square(jax.lax.stop_gradient(x)), axis=0)
    x = jnp.where(valid, x - (x.sum(axis=0) / count)[None], 0.0)
    spread = jnp.sum(jnp.square(jax.lax.stop_gradient(x)), axis=0)
    varies = spread > CONSTANT_SPREAD**2 * magnitude
    return jnp.where(varies[None], x, 0.0)


def unit_scale(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns x divided by its root mean square, and that scale (1 for a zero array).

    The scale is a constant to the gradient. For a function that is homogeneous in x this
    changes neither its value nor its gradient, and it keeps fourth powers of activations of
    1e9 or 1e-9 inside the range of float32.
    """
    fixed = jax.lax.stop_gradient(x)
    largest = jnp.max(jnp.abs(fixed), initial=0.0)
    largest = jnp.where(largest > 0, largest, 1.0)
    mean_square = jnp.mean(jnp.square(fixed / largest))
    scale = jnp.where(mean_square > 0, largest * safe_sqrt(mean_square), 1.0)
    return x / scale, scale


def unit_peak(rows: jax.Array) -> jax.Array:
    """Returns rows scaled to a largest absolute value of 1, for functions of their angles.

    The scale is a constant to the gradient, which is exact where only the direction counts; it
    keeps the squares of a mask that saturated at 1e-25 from vanishing.
    """
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1))
    return rows * safe_ratio(jnp.float32(1.0), peak)[:, None]


def softmax_kl(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """Returns KL(softmax(p_logits) ‖ softmax(q_logits)) over the last axis; p may hold -inf."""
    log_p, log_q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
    p = jnp.exp(log_p)
    possible = p > 0
    difference = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    return jnp.sum(p * difference, axis=-1)


def weighted_sum(terms: dict[str, jax.Array], weights: dict[str, float | jax.Array]) -> jax.Array:
    """Returns the sum of weight * term; a weight that is the number 0 leaves its term out.

    Left out, not multiplied: 0 * inf is NaN. A traced weight (a schedule) cannot be tested.
    """
    total = jnp.float32(0.0)
    for name, weight in weights.items():
        if not (isinstance(weight, int | float) and weight == 0):
            total = total + weight * terms[name]
    return total


def check_choice(name: str, value: str | None, choices: Sequence[str | None]) -> None:
    """Raises ValueError if a named option is none of its choices."""
    if value not in choices:
        expected = ', '.join(repr(choice) for choice in choices)
        raise ValueError(f'{name}={value!r} is not known; choose one of {expected}')
