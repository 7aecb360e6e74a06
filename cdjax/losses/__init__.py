"""Loss functions to import on their own: they need jax, chex and numpy, and nothing of cdjax.

Each is pure, differentiable, computes in float32 whatever it is given, and composes under
`jax.jit`, `jax.vmap`, `jax.grad` and `jax.shard_map`.

One convention for all. A loss returns a float32 scalar; one with more to tell, because it weighs
several terms or leaves out classes that are too small, returns `(loss, terms)`: a dict of float32
scalars, before weighting, among them what is only told (`classes_left_out`, `kl`). Losses over
problems take `where`, bool [N], False for padding rows, which may hold anything. Masks of the
discovery losses are flat, [K, D], or by layer, [K, L, F].
"""

from cdjax.losses.alignment import SIMILARITIES, ActivationPair, alignment_loss
from cdjax.losses.any_size import AnySizeWeights, any_size_loss
from cdjax.losses.discovery import (
    CausalDiscoveryWeights,
    DiscoveryWeights,
    causal_discovery_loss,
    completeness_loss,
    contrastive_similarity,
    density_kl,
    discovery_loss,
    faithfulness_kl,
    mask_overlap,
    mutual_information_loss,
    prior_kl,
    similarity_loss,
    sparsity_loss,
    standardize,
    usage_entropy,
)
from cdjax.losses.distillation import (
    TASKS,
    TopKLogits,
    cross_entropy,
    distillation_loss,
    kd_loss,
    topk_kd_loss,
)
from cdjax.losses.gates import (
    hard_concrete_gate,
    hard_concrete_open,
    log_uniform_sizes,
    membership_scores,
    soft_top_k,
    top_k_gate,
    top_k_mask,
)
from cdjax.losses.linear_map import init_projection, linear_map_r2
from cdjax.losses.similarity import (
    HSIC,
    ClassCKA,
    RowMemory,
    cka_loss,
    class_conditional_cka,
    class_conditional_cka_loss,
    hsic,
    linear_cka,
    minibatch_cka,
    procrustes_distance,
    rsa,
)

__all__ = [
    'HSIC',
    'SIMILARITIES',
    'TASKS',
    'ActivationPair',
    'AnySizeWeights',
    'CausalDiscoveryWeights',
    'ClassCKA',
    'DiscoveryWeights',
    'RowMemory',
    'TopKLogits',
    'alignment_loss',
    'any_size_loss',
    'causal_discovery_loss',
    'cka_loss',
    'class_conditional_cka',
    'class_conditional_cka_loss',
    'completeness_loss',
    'contrastive_similarity',
    'cross_entropy',
    'density_kl',
    'discovery_loss',
    'distillation_loss',
    'faithfulness_kl',
    'hard_concrete_gate',
    'hard_concrete_open',
    'hsic',
    'init_projection',
    'kd_loss',
    'linear_cka',
    'linear_map_r2',
    'log_uniform_sizes',
    'mask_overlap',
    'membership_scores',
    'minibatch_cka',
    'mutual_information_loss',
    'prior_kl',
    'procrustes_distance',
    'rsa',
    'similarity_loss',
    'soft_top_k',
    'sparsity_loss',
    'standardize',
    'top_k_gate',
    'top_k_mask',
    'topk_kd_loss',
    'usage_entropy',
]
