"""Losses of circuit discovery: the five published terms and the corrected objective.

Letters: N problems, K latent classes, L layers, F neurons a layer, D = L·F neurons, V tokens.
`a` [N, D] activations, `z` [N, K] class assignments (one-hot rows, straight-through gradient),
`m` [K, D] or [K, L, F] masks in (0, 1), N_k = Σ_i z[i, k], f_k = N_k / N.

The published terms (*Circuit Distillation for Math Reasoning*, §4.3) are kept to the letter, so
that they can be checked against the text. Some of them do not do what their names promise:
`causal_discovery_loss` is the objective to train with, and docs/losses.md says what changed.
The terms live in class_terms.py, mask_terms.py and here; this module offers them all. They
are pure, differentiable in every array, and compute in float32.
"""

import dataclasses
from typing import Self

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.class_terms import (
    contrastive_similarity,
    mutual_information_loss,
    similarity_loss,
    standardize,
    usage_entropy,
)
from cdjax.losses.mask_terms import (
    density_kl,
    mask_overlap,
    prior_kl,
    sparsity_loss,
)
from cdjax.losses.numerics import float32, mean_rows, softmax_kl, valid_rows, weighted_sum

__all__ = [
    'CausalDiscoveryWeights',
    'DiscoveryWeights',
    'causal_discovery_loss',
    'completeness_loss',
    'contrastive_similarity',
    'density_kl',
    'discovery_loss',
    'faithfulness_kl',
    'mask_overlap',
    'mutual_information_loss',
    'prior_kl',
    'similarity_loss',
    'sparsity_loss',
    'standardize',
    'usage_entropy',
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiscoveryWeights:
    """Weights λ1..λ5 of the published sum. Numbers, or traced scalars for a schedule."""

    similarity: float | jax.Array = 1.0
    usage: float | jax.Array = 1.0
    sparsity: float | jax.Array = 1.0
    prior_kl: float | jax.Array = 1.0
    overlap: float | jax.Array = 1.0

    @classmethod
    def unit(cls) -> Self:
        """Returns all weights 1: the text gives none."""
        return cls()

    @classmethod
    def authors(cls) -> Self:
        """Returns the weights of the authors' code, meant for `discovery_loss(normalize=True)`.

        Its usage weight is negative: as published, the term is +entropy, and a positive weight
        puts every problem into one class.
        """
        return cls(similarity=1.0, usage=-1.0, sparsity=5.0, prior_kl=0.1, overlap=5.0)


def discovery_loss(
    activations: jax.Array,
    assignments: jax.Array,
    masks: jax.Array,
    *,
    target: float | jax.Array,
    weights: DiscoveryWeights | None = None,
    normalize: bool = False,
    where: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the weighted sum of the five published terms, and the terms.

    `λ1 similarity + λ2 usage + λ3 sparsity + λ4 prior_kl + λ5 overlap` (§4.3).

    Args:
        activations: [N, D].
        assignments: [N, K] one-hot rows with a straight-through gradient.
        masks: [K, D] or [K, L, F], in [0, 1].
        target: the density π of `prior_kl`.
        weights: the five λ; by default all 1.
        normalize: take similarity and overlap in their cosine forms, as the authors' weights
            expect; False is the text.
        where: [N] bool, False for padding rows.

    Returns:
        The loss and the unweighted terms, float32 scalars keyed `similarity`, `usage`,
        `sparsity`, `prior_kl`, `overlap`.
    """
    weights = DiscoveryWeights.unit() if weights is None else weights
    terms = {
        'similarity': similarity_loss(
            activations, assignments, masks, normalize=normalize, where=where
        ),
        'usage': usage_entropy(assignments, where=where),
        'sparsity': sparsity_loss(masks),
        'prior_kl': prior_kl(masks, target),
        'overlap': mask_overlap(masks, normalize=normalize),
    }
    return weighted_sum(terms, vars(weights)), terms


def faithfulness_kl(
    full_logits: jax.Array, circuit_logits: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Returns the mean KL of the circuit's predictions from the full model's, in nats.

    `mean_i KL(softmax(full_i) ‖ softmax(circuit_i))`, where the circuit's logits come from the
    model with everything outside the circuit ablated (Conmy et al., arXiv 2304.14997). The full
    model is the target: its gradient is stopped.

    Args:
        full_logits: [N, V].
        circuit_logits: [N, V].
        where: [N] bool, False for padding rows.

    Returns:
        A float32 scalar >= 0.
    """
    return mean_rows(_divergence(full_logits, circuit_logits, where), where)


def completeness_loss(
    full_logits: jax.Array, complement_logits: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Returns how far the model without its circuit still agrees with the full model.

    `mean_i exp(-KL(softmax(full_i) ‖ softmax(complement_i)))`: 1 where the complement predicts
    as the full model does, 0 where it fails. Where the full model is sure, it is the probability
    that the complement gives to its answer. It is bounded, unlike -KL, which a few confident
    errors drive to -inf at the cost of every other term. The full model's gradient is stopped.

    Args:
        full_logits: [N, V].
        complement_logits: [N, V], from the model with the circuit ablated.
        where: [N] bool, False for padding rows.

    Returns:
        A float32 scalar in [0, 1].
    """
    return mean_rows(jnp.exp(-_divergence(full_logits, complement_logits, where)), where)


def _divergence(full_logits, other_logits, where) -> jax.Array:
    """Returns `KL(softmax(full_i) ‖ softmax(other_i))`, float32 [N], 0 for padding rows."""
    chex.assert_rank(full_logits, 2)
    chex.assert_equal_shape([full_logits, other_logits])
    logits = float32(jax.lax.stop_gradient(full_logits), other_logits)
    return softmax_kl(*(valid_rows(x, where) for x in logits))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CausalDiscoveryWeights:
    """Weights of the corrected objective. Numbers, or traced scalars for a schedule.

    The defaults come from the sizes of the terms (nats for faithfulness, usage and density,
    cosines for similarity and overlap), not from a search; but for faithfulness, which falls to
    hundredths of a nat long before the masks are settled: at weight 1 the circuits of the
    embedded teacher at 15 % of its neurons kept 80 % of the training problems, at 10 90 %.
    """

    faithfulness: float | jax.Array = 10.0
    completeness: float | jax.Array = 0.0
    usage: float | jax.Array = 1.0
    similarity: float | jax.Array = 0.1
    sparsity: float | jax.Array = 0.1
    density: float | jax.Array = 10.0
    overlap: float | jax.Array = 0.1


def causal_discovery_loss(
    activations: jax.Array,
    probabilities: jax.Array,
    assignments: jax.Array,
    masks: jax.Array,
    *,
    full_logits: jax.Array,
    circuit_logits: jax.Array,
    target: float | jax.Array,
    complement_logits: jax.Array | None = None,
    weights: CausalDiscoveryWeights | None = None,
    per_layer: bool = False,
    standardized: bool = False,
    where: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the corrected objective of circuit discovery, and its terms.

    The weighted sum of `faithfulness_kl`, `completeness_loss`, `mutual_information_loss`,
    `contrastive_similarity`, `sparsity_loss`, `density_kl` and `mask_overlap(normalize=True)`.

    Args:
        activations: [N, D].
        probabilities: [N, K] softmax of the classifier, without Gumbel noise.
        assignments: [N, K] one-hot rows with a straight-through gradient.
        masks: [K, D], or [K, L, F] with L·F = D, in [0, 1].
        full_logits: [N, V] of the whole model.
        circuit_logits: [N, V] with only each problem's circuit left; its mask must come from
            `assignments @ masks`, for a lookup by argmax gives the classifier no gradient.
        target: the density π of `density_kl`.
        complement_logits: [N, V] with each problem's circuit ablated; None leaves the term out.
        weights: the weight of each term.
        per_layer: ask for the density in each layer; needs masks [K, L, F].
        standardized: True where the activations are standardised already.
        where: [N] bool, False for padding rows.

    Returns:
        The loss and the unweighted terms, float32 scalars keyed `faithfulness`, `completeness`
        (where there are complement logits), `usage`, `similarity`, `sparsity`, `density`,
        `overlap`, and `classes_left_out`, a count of the classes too small for `similarity`.

    Raises:
        ValueError: if completeness has a weight and there are no complement logits, and as
            `density_kl`.
    """
    weights = CausalDiscoveryWeights() if weights is None else weights
    similarity, told = contrastive_similarity(
        activations, assignments, masks, standardized=standardized, where=where
    )
    terms = {
        'faithfulness': faithfulness_kl(full_logits, circuit_logits, where=where),
        'usage': mutual_information_loss(probabilities, where=where),
        'similarity': similarity,
        'sparsity': sparsity_loss(masks),
        'density': density_kl(masks, target, per_layer=per_layer),
        'overlap': mask_overlap(masks, normalize=True),
    }
    weight_by_name = dict(vars(weights))
    if complement_logits is not None:
        terms['completeness'] = completeness_loss(full_logits, complement_logits, where=where)
    else:
        weight = weight_by_name.pop('completeness')
        if isinstance(weight, int | float) and weight != 0:
            raise ValueError(
                f'weights.completeness={weight} needs complement_logits, which are None; pass the '
                'logits of the model without its circuit, or set the weight to 0'
            )
    loss = weighted_sum(terms, weight_by_name)
    return loss, terms | told
