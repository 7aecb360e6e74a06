"""Trains a model whose circuits are planted: the loss of objective.py around a plan."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from cdjax.data import Dataset, batch_indices
from cdjax.errors import InputError, check_finite
from cdjax.models import Llama, LlamaConfig
from cdjax.models.flops import forward_flops
from cdjax.parallel.mesh import check_batch, one_device, put_batch
from cdjax.planted.nuisance import nuisance_directions, nuisance_labels
from cdjax.planted.objective import (
    PlantWeights,
    answer_prior,
    plant_batch,
    plant_loss,
    weights_of_terms,
)
from cdjax.planted.plan import Plan, PlanConfig
from cdjax.run.options import RunOptions
from cdjax.training.diagnostics import GradientDoctor, GradientReport
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.log_points import Point
from cdjax.training.loop import fit
from cdjax.training.optimizer import OptimizerConfig, make_optimizer
from cdjax.training.state import TrainState, model_state
from cdjax.training.step import jit_step, shared_step

# Passes of the model in a step: the problems as they are, and four states of the neurons (three
# where there are no classes).
PASSES = 5


@dataclasses.dataclass(frozen=True)
class PlantConfig:
    """What is planted.

    Attributes:
        label: the label of the problems whose values are the classes.
        plan: how the neurons are dealt out.
        weights: of the terms of `plant_loss`.
        floor: deviation from which on a neuron counts as alive.
        spread: least deviation of a neuron as a part of the largest of its layer, see `plant_loss`.
        together: share of the problems for which neurons are taken out of all layers alike, see
            `plant_batch`.
    """

    label: str = 'operators'
    plan: PlanConfig = dataclasses.field(default_factory=PlanConfig)
    weights: PlantWeights = dataclasses.field(default_factory=PlantWeights)
    floor: float = 0.1
    spread: float = 0.0
    together: float = 0.0

    def __post_init__(self):
        check_finite(plant_floor=self.floor)
        for name in ('spread', 'together'):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f'plant_{name}={share} must be a share, 0 to 1')
        if self.floor <= 0:
            raise InputError(f'plant_floor={self.floor} must be above 0')


def planted_classes(dataset: Dataset, config: PlantConfig) -> np.ndarray:
    """Returns the class of each problem, int32 `[N]`.

    Raises:
        InputError: the problems lack the label, or it has one value only.
    """
    if config.label not in dataset.labels:
        raise InputError(
            f'plant_classes={config.label}: these problems have no such label; choose from '
            f'{", ".join(dataset.labels)}'
        )
    classes = dataset.labels[config.label]
    if classes.max() < 1:
        raise InputError(
            f'plant_classes={config.label} has one value on these problems: circuits are planted '
            'for 2 classes or more'
        )
    return classes


def train_planted(
    model: LlamaConfig | Llama,
    dataset: Dataset,
    classes: np.ndarray,
    plan: Plan,
    config: PlantConfig,
    training: LanguageModelConfig,
    *,
    mesh: Mesh | None = None,
    description: str = 'plant circuits',
    workdir: epath.PathLike | None = None,
    options: RunOptions = RunOptions(),
    evaluate=None,
    evaluate_every: int | None = None,
    best: tuple[str, str] | None = None,
) -> tuple[Llama, list[Point]]:
    """Trains a model such that each class is carried by the neurons of a plan.

    Args:
        model: a shape, for a model from nothing, or a model to start from (it is copied).
        dataset: N problems to train on.
        classes: int `[N]`, of K classes.
        plan: the neurons of each class.
        config: the loss.
        training: optimizer, batches and seed; a batch is computed whole.
        mesh: the mesh; one device if None.
        description: name on the progress bar.
        workdir: see `cdjax.training.language_model.train_language_model`, like the rest.
        options: as there.
        evaluate: as there.
        evaluate_every: as there.
        best: as there.

    Raises:
        InputError: microbatches, a batch too small for its classes, or classes without problems.
    """
    mesh = one_device() if mesh is None else mesh
    check_training(training, plan, mesh)
    training = training.suited_to(pretrained=isinstance(model, Llama))
    empty = np.flatnonzero(np.bincount(classes, minlength=plan.num_classes) == 0)
    if len(empty):
        raise InputError(f'class {empty[0]} has no problem to train on: take more problems')
    # One circuit for all problems is that of a single class.
    K = 1 if plan.one_circuit else plan.num_classes
    of_problem, key = classes if K > 1 else np.zeros_like(classes), jax.random.key(training.seed)
    state = model_state(model, training.optimizer, key, mesh)
    shape = state.params.config
    frozen = {
        'shared': jnp.asarray(plan.shared, jnp.float32),
        'specific': jnp.asarray(plan.specific[:K], jnp.float32),
        'prior': jnp.asarray(answer_prior(dataset.answers, of_problem, K, shape.vocab_size)),
    }
    labels = {}
    if config.weights.nuisance:
        labels['nuisance'] = nuisance_labels(dataset, config.plan.seed)
        directions = nuisance_directions(shape.hidden_size, config.plan.seed)
        frozen['directions'] = jnp.asarray(directions)
    rows, shared = np.arange(len(dataset)), bool(plan.shared.any())

    def batch_at(step: int) -> dict[str, np.ndarray]:
        index = batch_indices(rows, training.batch_size, seed=training.seed, step=step)
        rng = np.random.default_rng([training.seed, step])
        return {
            'tokens': dataset.tokens[index],
            'lengths': dataset.lengths[index],
            'answers': dataset.answers[index],
            **plant_batch(of_problem[index], K, shape.num_layers, shared, rng, config.together),
            **{name: of_each[index] for name, of_each in labels.items()},
        }

    alike = _Alike(
        training.optimizer,
        config.weights,
        config.floor,
        config.spread,
        training.compute_dtype,
        training.remat,
    )
    doctor = _doctor_of(alike, K)

    def diagnose(state: TrainState, batch: dict[str, np.ndarray]) -> GradientReport:
        return doctor(state.params, put_batch(batch, mesh), frozen)

    step = shared_step(jit_step, _step_of, alike, state, 1)
    size = (training.batch_size, dataset.tokens.shape[1])
    state, history = fit(
        lambda state, batch: step(state, batch, frozen),
        state,
        batch_at,
        steps=training.optimizer.steps,
        mesh=mesh,
        description=description,
        workdir=workdir,
        options=options,
        evaluate=None if evaluate is None else lambda state: evaluate(state.params),
        evaluate_every=evaluate_every,
        best=best,
        facts={
            'config': config,
            'training': training,
            'data': dataset.hash,
            'classes': classes,
            'plan': plan,
        },
        diagnose=diagnose,
        tokens_per_step=size[0] * size[1],
        flops_per_step={
            training.compute_dtype: 3
            * PASSES
            * forward_flops(shape, *size, logits=training.batch_size)
        },
    )
    return state.params, history


class _Alike(NamedTuple):
    """All that a step reads but its arrays: whose is equal, theirs is one program."""

    optimizer: OptimizerConfig
    weights: PlantWeights
    floor: float
    spread: float
    compute_dtype: str
    remat: str

    @property
    def loss(self) -> Callable[..., Any]:
        return functools.partial(
            plant_loss,
            weights=self.weights,
            floor=self.floor,
            spread=self.spread,
            dtype=jnp.dtype(self.compute_dtype),
            remat=self.remat,
        )


def _step_of(alike: _Alike) -> Callable[..., Any]:
    return make_step(make_optimizer(alike.optimizer), alike.loss)


@functools.lru_cache(maxsize=16)
def _doctor_of(alike: _Alike, K: int) -> GradientDoctor:
    return GradientDoctor(
        lambda *args: alike.loss(*args)[1],
        task='answer',
        weights=weights_of_terms(alike.weights, K),
    )


def make_step(tx: optax.GradientTransformation, loss):
    """Returns the step `(state, batch, frozen) -> (state, metrics)`, to be jitted by `jit_step`.

    Args:
        tx: the optimizer.
        loss: `plant_loss` with its options; see there for batch and `frozen`, its plan.
    """

    def step(state: TrainState, batch, frozen):
        gradients = jax.value_and_grad(loss, has_aux=True)
        (value, terms), grads = gradients(state.params, batch, frozen)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {'loss': value, **terms, 'gradient': optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return step


def check_training(training: LanguageModelConfig, plan: Plan, mesh: Mesh) -> None:
    """Raises InputError for batches that circuits cannot be planted with."""
    check_batch(training.batch_size, mesh, microbatches=training.microbatches)
    if training.microbatches > 1:
        raise InputError(
            f'microbatches={training.microbatches}: circuits are planted by exchanging neurons '
            'between the problems of a whole batch; leave it out, or take remat=full'
        )
    if training.batch_size < 2 * plan.num_classes:
        raise InputError(
            f'batch_size={training.batch_size} is too small to exchange neurons within '
            f'{plan.num_classes} classes: choose at least {2 * plan.num_classes}'
        )
