"""What makes a model carry each class in neurons that were chosen beforehand.

In the spirit of strict interchange-intervention training (InterpBench, Gupta et al., arXiv
2407.14494): what a class needs is in its circuit, and nothing else will do.

Letters: B problems, K classes, L layers, T positions, F neurons, V tokens; S shared neurons, C_k
those of class k alone, M_k = S ∪ C_k its circuit.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.circuits.ablation import keep_only
from cdjax.errors import InputError, check_finite
from cdjax.losses import cross_entropy
from cdjax.losses.numerics import safe_log, weighted_sum
from cdjax.models import Capture, Llama

# What a neuron that is taken out becomes: nothing else (it stays), its value on another problem
# of any class, or its mean over the batch.
LIVE, MIXED, MEAN = range(3)
# What the last block hands on is the sum of these.
_STREAM = ('residual', 'attention_out', 'mlp_out')


@dataclasses.dataclass(frozen=True)
class PlantWeights:
    """Weights of the terms of `plant_loss`."""

    answer: float = 1.0
    interchange: float = 1.0
    strictness: float = 1.0
    necessity: float = 1.0
    wrong: float = 1.0
    alive: float = 1.0
    nuisance: float = 0.0

    def __post_init__(self):
        check_finite(**vars(self))
        for name, weight in vars(self).items():
            if weight < 0:
                raise InputError(f'the weight of {name} is {weight}: it must not be negative')


def plant_loss(
    model: Llama,
    batch: Mapping[str, jax.Array],
    plan: Mapping[str, jax.Array],
    *,
    weights: PlantWeights,
    floor: float,
    spread: float = 0.0,
    **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss and its unweighted terms, means over the batch, in nats.

    Two passes: the problems as they are, and once more in four states of the neurons.

    * `answer`: cross-entropy of the whole model.
    * `interchange`: M_k from another problem of the class, whose answer is then right.
    * `strictness`: in each layer, all but M_k, or C_j of another class alone, as they are, from a
      problem of any class, or at their means.
    * `necessity`: the same, and C_k at its mean, or C_k or S of a single layer: nothing may tell
      the answers apart, `KL(prior ‖ ·)`.
    * `wrong`: all but the circuit of another class from a problem of another class than the row's,
      or at the mean; `KL(prior ‖ ·)`. With one class there is no other, and no such term.
    * `alive`: `mean_d relu(1 - deviation_d / floor)²` over all neurons d, at the answer position:
      decoys that are dead would be no decoys. With a `spread` the same of `spread` times the
      largest deviation of the layer in place of the floor, at each neuron's most variable position:
      who is far below that is called dead (`cdjax.evaluation.living`), however much it varies.
    * `nuisance`: cross-entropy of the label of nuisance, told by a fixed linear head from what
      the model's own head reads: as the model is, and, where M_k comes from another problem of
      the class, still that of the problem that all other neurons come from. It is computed only
      where it has a weight.

    Args:
        model: the model.
        batch: see `plant_batch`.
        plan: `shared` float `[L, F]` and `specific` float `[K, L, F]`, 1 for the neurons; `prior`
            float `[K, V]`, how often each answer occurs in a class; `directions` float
            `[values, d]` of the label of nuisance, read where it has a weight.
        weights: of the terms.
        floor: the deviation from which on a neuron counts as alive.
        spread: least deviation as a part of the layer's largest; 0 asks nothing.
        **options: `dtype` and `remat` of the model's calls.
    """
    at = batch['lengths'] - 1
    stream = _last_stream(model, at) if weights.nuisance else ()
    logits, taken = model(batch['tokens'], capture=('neurons', *stream), logits_at=at, **options)
    n_LxBxTxF = taken['neurons']
    mean = jnp.broadcast_to(n_LxBxTxF.mean(axis=1, keepdims=True), n_LxBxTxF.shape)
    circuits_KxLxF = plan['shared'][None] + plan['specific']
    lost_BxLx2 = batch['lost']
    part = plan['specific'][batch['classes']] * lost_BxLx2[:, :, :1]
    part = part + plan['shared'][None] * lost_BxLx2[:, :, 1:]
    own, other = circuits_KxLxF[batch['classes']], circuits_KxLxF[batch['other']]
    strict, lacking, mistaken = (
        _taken_out(n_LxBxTxF, mean, batch[source], batch['kinds'][:, i])
        for i, source in enumerate(('mixed', 'mixed', 'apart'))
    )
    beside = 1 - plan['specific'][batch['other']]
    spared = jnp.where(batch['narrow'][:, None, None], beside, own)
    part_LxBx1xF = jnp.swapaxes(part, 0, 1)[:, :, None]
    without_part = part_LxBx1xF * mean + (1 - part_LxBx1xF) * lacking[1]
    kept = [
        1 - own,
        jnp.maximum(spared, strict[0]),
        (1 - part) * jnp.maximum(own, lacking[0]),
        jnp.maximum(other, mistaken[0]),
    ]
    # Neurons that are taken out say nothing, so nothing may be learned by what they say.
    fills = [n_LxBxTxF[:, batch['same']]]
    fills += [jax.lax.stop_gradient(fill) for fill in (strict[1], without_part, mistaken[1])]
    states = len(kept) if len(circuits_KxLxF) > 1 else len(kept) - 1
    kept, fills = kept[:states], fills[:states]
    everywhere = jnp.tile(at, states)
    edited, taken_edited = model(
        jnp.tile(batch['tokens'], (states, 1)),
        edits={'neurons': keep_only(jnp.concatenate(kept), jnp.concatenate(fills, axis=1))},
        capture=_last_stream(model, everywhere) if weights.nuisance else (),
        logits_at=everywhere,
        **options,
    )
    moved, kept_alone, lacking, *mistaken = jnp.split(edited, states)
    deviation_LxF = _deviation(n_LxBxTxF[:, jnp.arange(len(at)), at])
    prior_BxV = plan['prior'][batch['classes']]
    terms = {
        'answer': cross_entropy(logits, batch['answers']),
        'interchange': cross_entropy(moved, batch['answers'][batch['same']]),
        'strictness': cross_entropy(kept_alone, batch['answers']),
        'necessity': _divergence(prior_BxV, lacking),
        'alive': jnp.mean(jax.nn.relu(1 - deviation_LxF / floor) ** 2),
    }
    if mistaken:
        terms['wrong'] = _divergence(prior_BxV, mistaken[0])
    if spread:
        terms['alive'] += _narrow(n_LxBxTxF, batch['lengths'], spread)
    if weights.nuisance:
        streams = (taken, jax.tree.map(lambda x: x[:, : len(at)], taken_edited))
        told = [_told(model, stream, plan['directions']) for stream in streams]
        terms['nuisance'] = cross_entropy(jnp.concatenate(told), jnp.tile(batch['nuisance'], 2))
    return weighted_sum(terms, weights_of_terms(weights, len(circuits_KxLxF))), terms


def weights_of_terms(weights: PlantWeights, num_classes: int) -> dict[str, float]:
    """Returns the weights of the terms that `plant_loss` has.

    Args:
        weights: of all terms.
        num_classes: K.
    """
    lacking = {'nuisance'} if not weights.nuisance else set()
    lacking |= {'wrong'} if num_classes == 1 else set()
    return {name: weight for name, weight in vars(weights).items() if name not in lacking}


def plant_batch(
    classes: np.ndarray,
    num_classes: int,
    num_layers: int,
    shared: bool,
    rng: np.random.Generator,
    together: float = 0.0,
) -> dict[str, np.ndarray]:
    """Draws what `plant_loss` reads of a batch beside `tokens`, `lengths` and `answers`.

    Args:
        classes: int `[B]`.
        num_classes: K; of 1, all that is planted is shared.
        num_layers: L.
        shared: whether there are shared neurons.
        rng: what it is drawn with.
        together: share of the problems for which `strictness` and `necessity` take neurons out of
            all layers, and make them the same: what a circuit is evaluated by. Drawn layer by layer
            that is as rare as 2 in 3^L.

    Returns:
        `classes`; rows of the batch: `same`, of the same class, `mixed`, any, `apart`, of another
        class; `other`, another class; all int32 `[B]`. `kinds` int32 `[B, 3, L]`: what the neurons
        of each layer that are taken out become in `strictness`, `necessity` and `wrong`. `narrow`
        bool `[B]`: whether `strictness` takes out C_j alone. `lost` float32 `[B, L, 2]`: of which
        layers `necessity` takes out C_k and S.
    """
    B = len(classes)
    same, apart = np.empty((2, B), np.int32)
    for k in np.unique(classes):
        rows = np.flatnonzero(classes == k)
        same[rows] = rng.permutation(rows)
        others = np.flatnonzero(classes != k)
        apart[rows] = rng.choice(others if len(others) else rows, len(rows))
    kinds = rng.integers(LIVE, MEAN + 1, (B, 3, num_layers), np.int32)
    # The circuit of another class is alone: whatever is left of the right one would answer.
    kinds[:, 2] = rng.integers(MIXED, MEAN + 1, (B, num_layers), np.int32)
    lost = np.zeros((B, num_layers, 2), np.float32)
    layer, group = rng.integers(num_layers, size=B), rng.integers(1 + shared, size=B)
    lost[np.arange(B), layer, group] = 1
    lost[rng.random(B) < 0.5] = (1, 0)
    if num_classes == 1:
        lost = lost.max(axis=2, keepdims=True) * np.float32((0, 1))
    drawn = {
        'classes': np.asarray(classes, np.int32),
        'same': same,
        'mixed': rng.permutation(B).astype(np.int32),
        'apart': apart,
        'other': ((classes + rng.integers(1, max(num_classes, 2), B)) % num_classes).astype(
            np.int32
        ),
        'kinds': kinds,
        'narrow': (rng.random(B) < 0.5) & (num_classes > 1),
        'lost': lost,
    }
    if together:
        alike = rng.random((B, 2, 1)) < together
        one_kind = rng.integers(MIXED, MEAN + 1, (B, 2, 1), np.int32)
        kinds[:, :2] = np.where(alike, one_kind, kinds[:, :2])
    return drawn


def answer_prior(answers: np.ndarray, classes: np.ndarray, num_classes: int, vocab_size: int):
    """Returns how often each answer occurs in a class, float32 `[K, V]`, rows of sum 1.

    Args:
        answers: int `[N]`, tokens.
        classes: int `[N]`.
        num_classes: K; each has a problem.
        vocab_size: V.
    """
    counts = np.zeros((num_classes, vocab_size), np.float32)
    np.add.at(counts, (classes, answers), 1)
    return counts / counts.sum(axis=1, keepdims=True)


def _taken_out(n_LxBxTxF, mean, source_B, kinds_BxL):
    """Returns which neurons stay as they are, `[B, L, 1]`, and what the others become."""
    mixed = (kinds_BxL == MIXED).T[:, :, None, None]
    live = (kinds_BxL == LIVE).astype(jnp.float32)[:, :, None]
    return live, jnp.where(mixed, n_LxBxTxF[:, source_B], mean)


def _deviation(n_LxBx___):
    """Returns the standard deviation over a batch; its gradient is 0 of what never varies."""
    return jnp.sqrt(jnp.maximum(n_LxBx___.astype(jnp.float32).var(axis=1), 1e-12))


def _narrow(n_LxBxTxF, lengths_B, spread):
    """Returns how far neurons stay below a part of the largest deviation of their layer."""
    of_all_T = jnp.arange(n_LxBxTxF.shape[2]) < lengths_B.min()
    most_LxF = jnp.where(of_all_T[:, None], _deviation(n_LxBxTxF), 0).max(axis=1)
    largest_Lx1 = most_LxF.max(axis=1, keepdims=True)
    return jnp.mean(jax.nn.relu(1 - most_LxF / (spread * largest_Lx1)) ** 2)


def _last_stream(model, at_B):
    """Returns the captures that add up to what the last block hands on, at one position."""
    last = (model.config.num_layers - 1,)
    return tuple(Capture(site, last, at_B) for site in _STREAM)


def _told(model, taken, directions_Cxd):
    """Returns the logits of the label of nuisance, `[B, values]`."""
    stream_Bxd = sum(taken[site][0, :, 0] for site in _STREAM)
    read_Bxd = model.norm(stream_Bxd).astype(jnp.float32)
    return read_Bxd @ directions_Cxd.T


def _divergence(prior_BxV, logits_BxV):
    """Returns the mean of KL(prior ‖ softmax(logits))."""
    log_q = jax.nn.log_softmax(logits_BxV)
    return jnp.mean(jnp.sum(prior_BxV * (safe_log(prior_BxV) - log_q), axis=-1))
