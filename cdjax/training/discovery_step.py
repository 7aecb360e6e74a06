"""One step of a discovery: classes of a batch, the objective's loss for each model, an update."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from cdjax.circuits.classifier import Classifier, straight_through_gumbel_softmax
from cdjax.models import LlamaConfig
from cdjax.parallel.mesh import TENSOR
from cdjax.training.accumulation import accumulate_gradients
from cdjax.training.diagnostics import GradientDoctor
from cdjax.training.discovery_config import DiscoveryConfig
from cdjax.training.objectives import Objective, Subject
from cdjax.training.optimizer import make_optimizer
from cdjax.training.state import TrainState

# Masks are as wide as the neurons of a model, so they are split like them.
RULES = (
    (r'masks\.[^.]+\.neurons$', P(None, TENSOR)),
    (r'masks\.[^.]+\.bias$', P(TENSOR)),
    (r'masks\.[^.]+\.scores$', P(None, None, TENSOR)),
    (r'', P()),
)

CLASSIFIER, MASKS = 'classifier', 'masks'


def make_params(
    key: jax.Array,
    shapes: Mapping[str, LlamaConfig],
    width: int | None,
    objective: Objective,
    num_classes: int,
    first_scores: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Returns the first parameters: the masks of each model, and the classifier.

    Args:
        key: PRNG key.
        shapes: name → shape of each model.
        width: features of an encoding (E); None where the classes are fixed beforehand.
        objective: what the masks are trained for.
        num_classes: K.
        first_scores: name → scores to start near, see `Objective.init`.
    """
    first_scores = first_scores or {}
    keys = jax.random.split(key, len(shapes) + 1)
    masks = {
        name: objective.init(model_key, shape, num_classes, first_scores.get(name))
        for (name, shape), model_key in zip(shapes.items(), keys[1:], strict=True)
    }
    if width is None:
        return {MASKS: masks}
    return {MASKS: masks, CLASSIFIER: Classifier(width, num_classes, keys[0])}


def make_discovery_optimizer(config: DiscoveryConfig) -> optax.GradientTransformation:
    """Returns the optimizer of a discovery; the classifier has its own learning rate."""
    rates = {CLASSIFIER: config.classifier_learning_rate}
    return make_optimizer(config.optimizer, learning_rates=rates)


def make_step(tx: optax.GradientTransformation, config: DiscoveryConfig):
    """Returns the step `(state, batch, frozen) -> (state, metrics)`, to be jitted by `jit_step`.

    `frozen` holds for each model its weights and `fill [L, T, F]`; a batch holds `tokens`,
    `lengths`, `counterfactual_tokens`, `encoding [B, E]` or `classes [B]`, and in `stores` for
    each model what the objective reads of `logits [B, V]` and `activations [B, D]`.

    Args:
        tx: the optimizer.
        config: the search.
    """

    def loss(params, batch, frozen, draws, progress):
        return discovery_loss_and_terms(params, frozen, batch, draws, progress, config)

    gradients = accumulate_gradients(jax.value_and_grad(loss, has_aux=True), config.microbatches)

    def step(state: TrainState, batch, frozen):
        batch, draws = with_draws(batch, frozen, jax.random.fold_in(state.key, state.step), config)
        progress = state.step / jnp.float32(config.optimizer.steps)
        (value, terms), grads = gradients(state.params, batch, frozen, draws, progress)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {'loss': value, **terms, 'gradient': optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return step


def with_draws(
    batch, frozen, key: jax.Array, config: DiscoveryConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the batch with the random numbers of its problems, and those of each model's masks.

    They are drawn for the whole batch, so that its microbatches see what the whole would.
    """
    of_classes, of_rows, of_masks = jax.random.split(key, 3)
    rows, K = len(batch['tokens']), config.num_classes
    draws = config.objective.draw_rows(of_rows, rows, K)
    if 'encoding' in batch:
        draws['gumbel'] = jax.random.gumbel(of_classes, (rows, K))
    keys = jax.random.split(of_masks, len(frozen))
    masks = {
        name: config.objective.draw(model_key, parts['model'].config, K)
        for (name, parts), model_key in zip(sorted(frozen.items()), keys, strict=True)
    }
    return batch | {'draws': draws}, masks


def discovery_loss_and_terms(
    params, frozen, batch, draws, progress: jax.Array, config: DiscoveryConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss and its unweighted terms, each the mean over the models.

    Args:
        params: what `make_params` returns.
        frozen: see `make_step`.
        batch: what `with_draws` returns.
        draws: likewise.
        progress: the part of all steps that is done.
        config: the search.
    """
    probabilities_BxK = None
    if 'classes' in batch:
        assignments_BxK = jax.nn.one_hot(batch['classes'], config.num_classes)
    else:
        logits_BxK = params[CLASSIFIER](batch['encoding'])
        probabilities_BxK = jax.nn.softmax(logits_BxK)
        assignments_BxK = straight_through_gumbel_softmax(
            batch['draws']['gumbel'], logits_BxK, config.temperature
        )
    found = []
    for name, masks in params[MASKS].items():
        subject = Subject(
            **frozen[name],
            batch=batch,
            store=batch['stores'][name],
            assignments=assignments_BxK,
            probabilities=probabilities_BxK,
            remat=config.remat,
        )
        found.append(config.objective.loss(masks, subject, batch['draws'] | draws[name], progress))
    mean = lambda *values: sum(values) / len(values)
    return jax.tree.map(mean, *found)


@functools.lru_cache(maxsize=16)
def gradient_doctor(
    names: tuple[str, ...], learned: bool, config: DiscoveryConfig
) -> GradientDoctor:
    """Returns the doctor of a discovery: `doctor(params, frozen, batch, key, step)`.

    Args:
        names: of the models.
        learned: whether there is a classifier to reach.
        config: the search. Weights are taken as they are at the end, when all are
            faded in.
    """
    groups = [f'{MASKS}.{name}' for name in names] + [CLASSIFIER] * learned
    weights = config.objective.final_weights(learned)
    single = config.num_classes == 1
    empty = [name for name in ('usage', 'overlap') if single and name in weights]

    def terms(params, frozen, batch, key, step):
        batch, draws = with_draws(batch, frozen, jax.random.fold_in(key, step), config)
        done = jnp.float32(1)
        return discovery_loss_and_terms(params, frozen, batch, draws, done, config)[1]

    return GradientDoctor(
        terms,
        task=config.objective.task,
        weights=weights,
        groups=groups,
        allow_zero=dict.fromkeys(empty, 'one class'),
        reaches={} if single else {config.objective.task: groups},
    )
