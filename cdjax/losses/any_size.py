"""The objective of masks that are trained at every size at once.

Letters: N problems, K classes, G sizes, V tokens. Each problem of a batch is answered by the model
with only a circuit left, of one of the G sizes; the gates are in gates.py.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.class_terms import mutual_information_loss
from cdjax.losses.numerics import (
    float32,
    mean_rows,
    product,
    row_weights,
    safe_ratio,
    softmax_kl,
    valid_rows,
    weighted_sum,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AnySizeWeights:
    """Weights of the terms of `any_size_loss`. Numbers, or traced scalars for a schedule."""

    faithfulness: float | jax.Array = 1.0
    usage: float | jax.Array = 1.0
    completeness: float | jax.Array = 0.0
    selectivity: float | jax.Array = 0.0


def any_size_loss(
    full_logits: jax.Array,
    circuit_logits: jax.Array,
    sizes: jax.Array,
    *,
    probabilities: jax.Array | None = None,
    without_own_logits: jax.Array | None = None,
    without_other_logits: jax.Array | None = None,
    answered: jax.Array | None = None,
    weights: AnySizeWeights | None = None,
    offset: float = 0.02,
    where: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the objective of masks that are trained at every size, and its terms.

    With KL_i = KL(softmax(full_i) ‖ softmax(·_i)), in nats; of an answer of several tokens the sum
    over them, each behind the right ones before it, which is the KL of the answers as a whole as
    far as they go along that one:

    * `faithfulness`: `mean_g log(mean_{i of size g} KL_i(circuit) + offset)`. The logarithm gives
      every size the same say; in a plain mean the smallest, whose KL is large, drown the rest.
    * `usage`: `mutual_information_loss` of the classes.
    * `completeness`: `mean_i exp(-KL_i(without own) / 2)`, where the model without a problem's own
      circuit (or the specific part of it) should fail.
    * `selectivity`: `mean_i log(1 + KL_i(without other))`, where it should not, for it lacks the
      circuit of another class only.

    Args:
        full_logits: [N, V] of the whole model, or [N, A, V] of A tokens; its gradient is stopped.
        circuit_logits: like `full_logits`, with only each problem's circuit left.
        sizes: [N, G] one-hot rows, which of the sizes that circuit has. A size of no problem is
            left out.
        probabilities: [N, K] softmax of the classifier; None leaves `usage` out.
        without_own_logits: like `full_logits`, with each problem's circuit ablated; None leaves
            `completeness` out.
        without_other_logits: like `full_logits`, with the circuit of another class ablated; None
            leaves `selectivity` out.
        answered: bool [N, A], the tokens that an answer has; all if None.
        weights: the weight of each term.
        offset: added to a KL before its logarithm: below it there is little to be gained.
        where: bool [N], the valid rows; all of them if None.

    Returns:
        The loss and the unweighted terms, float32 scalars keyed as above, and `kl`, the mean of
        KL_i(circuit), which is only told.

    Raises:
        ValueError: a weight, given as a number, of a term that is left out, `usage` excepted.
    """
    chex.assert_rank([full_logits, circuit_logits, sizes], [{2, 3}, {2, 3}, 2])
    chex.assert_equal_shape([full_logits, circuit_logits])
    weights = AnySizeWeights() if weights is None else weights
    (full,), (sizes,) = float32(jax.lax.stop_gradient(full_logits)), float32(sizes)
    valid, full = row_weights(where, len(full)), valid_rows(full, where)
    sizes = valid_rows(sizes, where)

    def divergence(logits):
        kl = softmax_kl(full, valid_rows(*float32(logits), where))
        if kl.ndim == 1:
            return kl
        return jnp.sum(kl if answered is None else jnp.where(answered, kl, 0.0), axis=1)

    kl_N = divergence(circuit_logits)
    count_G = product('n,ng->g', valid, sizes)
    kl_G = safe_ratio(product('n,ng->g', valid * kl_N, sizes), count_G)
    present_G = (count_G > 0).astype(jnp.float32)
    log_G = jnp.log(kl_G + offset)
    terms = {
        'faithfulness': safe_ratio(jnp.sum(present_G * log_G), jnp.sum(present_G)),
        'kl': mean_rows(kl_N, where),
    }
    used = dict(vars(weights))
    if probabilities is None:
        used.pop('usage')
    else:
        terms['usage'] = mutual_information_loss(probabilities, where=where)
    for name, logits, value in (
        ('completeness', without_own_logits, lambda kl: jnp.exp(-kl / 2)),
        ('selectivity', without_other_logits, jnp.log1p),
    ):
        if logits is not None:
            terms[name] = mean_rows(value(divergence(logits)), where)
            continue
        weight = used.pop(name)
        if isinstance(weight, int | float) and weight != 0:
            raise ValueError(
                f'weights.{name}={weight} needs the logits of the model without a circuit, which '
                'are None; pass them, or set the weight to 0'
            )
    return weighted_sum(terms, used), terms
