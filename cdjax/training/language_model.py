"""Trains a Llama on the answers of a task: a teacher, or a student's head start."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from cdjax.data import Dataset, batch_indices
from cdjax.data.encoding import NO_TOKEN
from cdjax.errors import check_seed
from cdjax.inference.predictions import answer_columns
from cdjax.losses import cross_entropy
from cdjax.models import Llama, LlamaConfig
from cdjax.models.flops import forward_flops
from cdjax.parallel.mesh import check_batch, one_device, put_batch
from cdjax.run.options import RunOptions
from cdjax.training.accumulation import (
    accumulate_gradients,
    check_batch_size,
    first_microbatch,
)
from cdjax.training.diagnostics import GradientDoctor, GradientReport
from cdjax.training.log_points import Point
from cdjax.training.loop import fit
from cdjax.training.optimizer import OptimizerConfig, Suited, SuitedToStart, make_optimizer
from cdjax.training.state import TrainState, model_state
from cdjax.training.step import jit_step, shared_step, steps_at_once

FROM_NOTHING = Suited(2e-3, 0.3)


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig(SuitedToStart):
    """How a Llama is trained on answers.

    Attributes:
        optimizer: AdamW and its schedule; its `steps` are the steps of the training. What it
            leaves open suits the model, see `suited_to`.
        batch_size: problems a step.
        microbatches: parts of a batch that are computed one after the other, in the memory of one.
        seed: of the initial weights and of the order of the problems.
        compute_dtype: dtype of the computation (`bfloat16`); the parameters stay float32.
        remat: what the backward pass keeps, a key of `cdjax.models.llama.REMAT_POLICIES`.
    """

    from_nothing: ClassVar = FROM_NOTHING

    optimizer: OptimizerConfig = OptimizerConfig(5000)
    batch_size: int = 256
    microbatches: int = 1
    seed: int = 0
    compute_dtype: str = 'float32'
    remat: str = 'none'

    def __post_init__(self):
        check_batch_size(self.batch_size, self.microbatches)
        check_seed(seed=self.seed)


def train_language_model(
    model: LlamaConfig | Llama,
    dataset: Dataset,
    config: LanguageModelConfig,
    *,
    mesh: Mesh | None = None,
    description: str = 'language model',
    workdir: epath.PathLike | None = None,
    options: RunOptions = RunOptions(),
    evaluate: Callable[[Llama], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    best: tuple[str, str] | None = None,
) -> tuple[Llama, list[Point]]:
    """Trains a model with cross-entropy at the answer, each token behind the right ones before it.

    Args:
        model: a shape, for a model from nothing, or a model to start from (it is copied); what
            `config.optimizer` leaves open depends on which of the two it is.
        dataset: the problems to train on.
        config: the training.
        mesh: the mesh; one device if None.
        description: name on the progress bar.
        workdir: folder of checkpoints and metrics; a killed training continues from it.
        options: what is written and checked on the way.
        evaluate: model → scalars, logged as `evaluation/NAME`.
        evaluate_every: steps between evaluations; at the end only if None.
        best: see `fit`: which checkpoint is kept beside the newest ones.

    Returns:
        The model and the log points of `fit`.

    Raises:
        cdjax.training.diagnostics.GradientError: a model that the loss does not train.
    """
    mesh = one_device() if mesh is None else mesh
    check_batch(config.batch_size, mesh, microbatches=config.microbatches)
    config = config.suited_to(pretrained=isinstance(model, Llama))
    state = model_state(model, config.optimizer, jax.random.key(config.seed), mesh)
    rows = np.arange(len(dataset))

    def batch_at(step: int) -> dict[str, np.ndarray]:
        index = batch_indices(rows, config.batch_size, seed=config.seed, step=step)
        return {
            'tokens': dataset.tokens[index],
            'lengths': dataset.lengths[index],
            'answers': dataset.answers[index],
        }

    alike = dataclasses.replace(config, seed=0)
    doctor = _doctor_of(alike)

    def diagnose(state: TrainState, batch: dict[str, np.ndarray]) -> GradientReport:
        return doctor(state.params, put_batch(first_microbatch(batch, config.microbatches), mesh))

    size = (config.batch_size, dataset.tokens.shape[1])
    flops = 3 * forward_flops(state.params.config, *size, logits=config.batch_size)
    at_once = steps_at_once(flops, mesh)
    state, history = fit(
        shared_step(jit_step, _step_of, alike, state, at_once),
        state,
        batch_at,
        steps=config.optimizer.steps,
        mesh=mesh,
        description=description,
        workdir=workdir,
        options=options,
        evaluate=None if evaluate is None else lambda state: evaluate(state.params),
        evaluate_every=evaluate_every,
        best=best,
        facts={'config': config, 'data': dataset.hash},
        diagnose=diagnose,
        at_once=at_once,
        tokens_per_step=size[0] * size[1],
        flops_per_step={config.compute_dtype: flops},
    )
    return state.params, history


def _step_of(config: LanguageModelConfig) -> Callable[..., Any]:
    return make_step(make_optimizer(config.optimizer), config)


@functools.lru_cache(maxsize=16)
def _doctor_of(config: LanguageModelConfig) -> GradientDoctor:
    return GradientDoctor(
        lambda model, batch: {'loss': answer_loss(model, batch, config)[0]},
        task='loss',
        weights={},
    )


def make_step(tx: optax.GradientTransformation, config: LanguageModelConfig):
    """Returns the training step `(state, batch) -> (state, metrics)`, to be jitted by `jit_step`.

    A batch holds `tokens` int32 `[B, T]`, `lengths` `[B]` and `answers` `[B]` or `[B, A]`.
    """

    loss = functools.partial(answer_loss, config=config)
    gradients = accumulate_gradients(jax.value_and_grad(loss, has_aux=True), config.microbatches)

    def step(state: TrainState, batch):
        (value, accuracy), grads = gradients(state.params, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {'loss': value, 'accuracy': accuracy, 'gradient': optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return step


def answer_loss(model: Llama, batch, config: LanguageModelConfig) -> tuple[jax.Array, jax.Array]:
    """Returns the cross-entropy of the answers' tokens and the accuracy, means over a batch.

    An answer is right where all of its tokens are.
    """
    logits, _ = model(
        batch['tokens'],
        logits_at=answer_columns(batch),
        dtype=jnp.dtype(config.compute_dtype),
        remat=config.remat,
    )
    answers = batch['answers']
    right = jnp.argmax(logits, -1) == answers
    if answers.ndim == 1:
        return cross_entropy(logits, answers), jnp.mean(right)
    given = answers != NO_TOKEN
    losses = cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        jnp.maximum(answers, 0).reshape(-1),
        where=given.reshape(-1),
    )
    return losses, jnp.mean((right | ~given).all(axis=1))
