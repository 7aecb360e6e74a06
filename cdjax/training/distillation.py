"""Stage 2: a student learns the teacher's answers, and to represent them as its circuits do.

`KD + weight * sum over layer pairs of (1 - similarity)` on a small share of the problems. The
teacher is frozen and the problems are few, so its logits and activations are computed once; a step
then pays for the student alone.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from cdjax.data import Dataset, batch_indices
from cdjax.data.encoding import NO_TOKEN
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.components import paired_components
from cdjax.distillation.interchange import (
    Interchange,
    check_interchange,
    check_single_answers,
    student_patched,
)
from cdjax.distillation.readings import READINGS
from cdjax.distillation.similarities import SIMILARITIES
from cdjax.distillation.store import OnlineTeacher, TeacherStore, stacked_output
from cdjax.distillation.target import Target
from cdjax.errors import InputError
from cdjax.inference.activations import token_columns
from cdjax.losses import (
    ActivationPair,
    RowMemory,
    TopKLogits,
    distillation_loss,
    kd_loss,
    topk_kd_loss,
)
from cdjax.losses.numerics import weighted_sum
from cdjax.models import Llama, LlamaConfig
from cdjax.models.flops import forward_flops
from cdjax.parallel.mesh import (
    FSDP,
    check_batch,
    one_device,
    put_batch,
    replicate,
)
from cdjax.run.options import RunOptions
from cdjax.training.accumulation import (
    accumulate_gradients,
    first_microbatch,
)
from cdjax.training.diagnostics import GradientDoctor, GradientReport
from cdjax.training.distillation_config import DistillationConfig
from cdjax.training.learned_maps import LearnedMaps, first_memory, optimizer_of_maps
from cdjax.training.log_points import Point
from cdjax.training.loop import fit
from cdjax.training.optimizer import make_optimizer
from cdjax.training.schedules import weight_at
from cdjax.training.state import TrainState, model_state
from cdjax.training.step import jit_step, shared_step, steps_at_once
from cdjax.wording import count


def distill(
    student: LlamaConfig | Llama,
    store: TeacherStore | OnlineTeacher,
    dataset: Dataset,
    config: DistillationConfig,
    *,
    mesh: Mesh | None = None,
    alignment: Alignment | None = None,
    interchange: Interchange | None = None,
    paired: Alignment | None = None,
    description: str = 'distill',
    workdir: epath.PathLike | None = None,
    options: RunOptions = RunOptions(),
    evaluate: Callable[[Llama], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    best: tuple[str, str] | None = None,
) -> tuple[Llama, list[Point]]:
    """Distils a teacher's answers, and with an alignment its representations, into a student.

    Answers of several tokens are learned token by token, each behind the right ones before it, and
    each problem counts the same, see `cdjax.losses.distillation_loss`.

    Args:
        student: a shape, for a student from nothing, or a model to start from (it is copied);
            what `config.optimizer` leaves open depends on which of the two it is.
        store: what the teacher says of the problems, row by row.
        dataset: the share of N problems to learn from.
        config: the distillation.
        mesh: the mesh; one device if None.
        alignment: what is aligned; KD alone if None.
        interchange: what the teacher answers where its circuits are patched, for an alignment that
            compares that.
        paired: whose components alone are trained where `config.trained` says so; those of the
            alignment if None.
        description: name on the progress bar.
        workdir: folder of checkpoints and metrics; a killed distillation continues from it.
        options: what is written and checked on the way.
        evaluate: student → scalars, logged as `evaluation/NAME`.
        evaluate_every: steps between evaluations; at the end only if None.
        best: see `fit`: which checkpoint is kept beside the newest ones.

    Returns:
        The student, and the log points of `fit`.

    Raises:
        InputError: a student whose vocabulary is not the teacher's, a store of answers of another
            number of tokens, an interchange of answers of several, or a batch too small for CKA.
        cdjax.training.diagnostics.GradientError: a task or an alignment that trains nothing.
    """
    mesh = one_device() if mesh is None else mesh
    model_config = student if isinstance(student, LlamaConfig) else student.config
    if model_config.vocab_size != store.vocab_size:
        raise InputError(
            f'the student has {model_config.vocab_size} tokens and the teacher '
            f'{store.vocab_size}: distillation needs one vocabulary'
        )
    if store.answer_tokens != dataset.answer_tokens:
        raise InputError(
            f'the store of the teacher has logits of {count(store.answer_tokens, "token")} of each '
            f'answer, and the problems answers of {dataset.answer_tokens}: store it again'
        )
    assert len(store) == len(dataset), (len(store), len(dataset))
    check_distillation(
        config, len(dataset), vocab_size=store.vocab_size, mesh=mesh, alignment=alignment
    )
    config = config.suited_to(pretrained=isinstance(student, Llama))
    key = jax.random.key(config.seed)
    state = model_state(student, config.optimizer, key, mesh, init_std=config.init_std)
    rows, placed, target = np.arange(len(dataset)), None, None
    if interchange is not None:
        check_single_answers(dataset.answer_tokens)
    if alignment is not None:
        assert alignment.interchange == (interchange is not None)
        assert (store.site, store.positions) == (alignment.site, alignment.positions)
        too_few = alignment.check_batch(
            config.batch_size, microbatches=config.microbatches, devices=mesh.shape[FSDP]
        )
        if too_few is not None:
            warnings.warn(too_few, stacklevel=2)
        placed = alignment.placed(mesh)
        if not alignment.interchange:
            assert store.reading == alignment.stored, (store.reading, alignment.reading)
            target = Target(alignment, store)
            widths = math.prod(alignment.compared_shape(model_config)), target.width
            memory = first_memory(alignment, config, *widths)
            state = dataclasses.replace(state, memory=replicate(memory, mesh))
    components = None
    if config.trained == 'paired':
        paired = alignment if paired is None else paired
        components = replicate(paired_components(state.params, paired), mesh)

    def batch_at(step: int) -> dict[str, Any]:
        index = batch_indices(rows, config.batch_size, seed=config.seed, step=step)
        batch = {
            'tokens': dataset.tokens[index],
            'lengths': dataset.lengths[index],
        }
        if config.task == 'cross_entropy':
            batch['labels'] = np.maximum(dataset.answers[index], 0)
        else:
            batch['teacher_logits'] = store.logits_of(index)
        if dataset.answer_tokens > 1:
            batch['answered'] = dataset.answers[index] != NO_TOKEN
        if target is not None:
            batch['teacher_activations'] = target[index]
        if interchange is not None:
            batch |= interchange.at(index, step, dataset.tokens)
        if alignment is not None and alignment.classes is not None:
            batch['classes'] = np.asarray(alignment.classes[index], np.int32)
        return batch

    shared = alike(config)
    doctor = _doctor_of(shared, 0.0 if alignment is None else config.weight)

    def diagnose(state: TrainState, batch: dict[str, Any]) -> GradientReport:
        part = put_batch(first_microbatch(batch, config.microbatches), mesh)
        return doctor(state.params, part, placed, state.memory)

    shape = (config.batch_size, dataset.tokens.shape[1])
    answer_tokens = dataset.answer_tokens
    flops = student_flops(model_config, *shape, alignment, answer_tokens=answer_tokens)
    at_once = steps_at_once(flops, mesh)
    step = shared_step(jit_step, step_of, shared, state, at_once)
    weight = replicate(jnp.float32(config.weight), mesh) if config.weight else None
    state, history = fit(
        lambda state, batch: step(state, batch, placed, components, weight),
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
        facts={
            'config': config,
            'data': dataset.hash,
            'alignment': alignment,
            'interchange': None if interchange is None else interchange.sources,
        },
        diagnose=diagnose,
        at_once=at_once,
        tokens_per_step=shape[0] * shape[1],
        flops_per_step={config.compute_dtype: flops},
    )
    return state.params, history


def check_distillation(
    config: DistillationConfig,
    problems: int,
    *,
    vocab_size: int,
    mesh: Mesh,
    alignment: Alignment | None,
) -> None:
    """Raises InputError for settings that cannot work; to be asked before a model is loaded.

    Args:
        config: the distillation.
        problems: those of the share, N.
        vocab_size: tokens of the teacher.
        mesh: the mesh.
        alignment: what is aligned, if anything; its pairs need not be known yet.
    """
    check_batch(config.batch_size, mesh, microbatches=config.microbatches)
    if alignment is not None:
        config.check_aligned(problems)
        alignment.check_memory(config.microbatches)
        if alignment.pairs and alignment.interchange:
            check_interchange(alignment)
    if config.top_k is not None and config.top_k > vocab_size:
        raise InputError(f'top_k={config.top_k}: the teacher has {vocab_size} tokens')


def student_flops(
    student: LlamaConfig,
    rows: int,
    length: int,
    alignment: Alignment | None,
    *,
    answer_tokens: int = 1,
) -> int:
    """Returns the useful FLOPs of a step, see `forward_flops`.

    Three forward passes' worth of each pass: one, and of an interchange two more, of which that of
    the source has no logits.

    Args:
        student: shape of the student.
        rows: of a batch (B).
        length: positions of each (T).
        alignment: what is aligned, if anything.
        answer_tokens: tokens of an answer, each with logits (A).
    """
    with_logits = [rows * answer_tokens]
    if alignment is not None and alignment.interchange:
        with_logits += [0, rows * answer_tokens]
    return 3 * sum(forward_flops(student, rows, length, logits) for logits in with_logits)


def alike(config: DistillationConfig) -> DistillationConfig:
    """Returns the configuration of all whose steps are one program: weights are its arguments."""
    weight = 1.0 if config.weight else 0.0  # which leaves the alignment out
    return dataclasses.replace(config, weight=weight, seed=0, init_std=1.0, teacher_store='memory')


@functools.lru_cache(maxsize=16)
def step_of(config: DistillationConfig) -> Callable[..., Any]:
    """Returns the step of a configuration, one and the same for all who ask, like its traces."""
    return make_step(make_optimizer(config.optimizer), config)


@functools.lru_cache(maxsize=16)
def _doctor_of(config: DistillationConfig, weight: float) -> GradientDoctor:
    return GradientDoctor(
        lambda params, *args: distillation_terms(params, *args, config)[1],
        task='task',
        weights={'alignment': weight},
    )


def make_step(tx: optax.GradientTransformation, config: DistillationConfig):
    """Returns the step `(state, batch, alignment, ...) -> (state, metrics)`, for `jit_step`.

    A batch holds `tokens [B, T]`, `lengths [B]`, `teacher_logits` (`[B, V]`, or the top k) or, of
    cross-entropy, `labels [B]`; of answers of A > 1 tokens these are `[B, A, V]` and `[B, A]`, and
    `answered` bool `[B, A]` says which of them an answer has; and, where layers are paired,
    `teacher_activations [B, pairs, ...]` (of an interchange, `source_tokens [B, T]` and
    `patched_logits`) and possibly `classes [B]`. The alignment is None, or one that was `placed`;
    the components are those of `paired_components`, None for all; the weight is a float32 scalar,
    None for that of the configuration.
    """

    def loss(trained, batch, alignment, memory, done, weight):
        params, maps = trained
        weight = config.weight if weight is None else weight
        weight = weight_at(config.weight_schedule, weight, done, config.optimizer.steps)
        memory = dataclasses.replace(memory, maps=maps) if maps else memory
        total, terms, compared = distillation_terms(
            params, batch, alignment, memory, config, weight=weight
        )
        return total, (terms, compared if memory and not maps else ())

    gradients = accumulate_gradients(jax.value_and_grad(loss, has_aux=True), config.microbatches)

    def step(state: TrainState, batch, alignment=None, components=None, weight=None):
        memory = state.memory
        maps = memory.maps if isinstance(memory, LearnedMaps) else ()
        (value, (terms, compared)), (grads, to_maps) = gradients(
            (state.params, maps), batch, alignment, memory, state.step, weight
        )

        def chosen(tree):
            return tree if components is None else jax.tree.map(jnp.multiply, tree, components)

        grads = chosen(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, chosen(updates))
        if maps:
            moves, of_maps = optimizer_of_maps(config).update(to_maps, memory.opt_state, maps)
            memory = LearnedMaps(optax.apply_updates(maps, moves), of_maps)
        else:
            memory = tuple(
                past.push(pair.student, pair.teacher, pair.assignments)
                for past, pair in zip(memory, compared, strict=True)
            )
        metrics = {'loss': value, **terms, 'gradient': optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, state.key, memory), metrics

    return step


def distillation_terms(
    params: Llama,
    batch,
    alignment: Alignment | None,
    memory: tuple[RowMemory, ...] | LearnedMaps,
    config: DistillationConfig,
    *,
    weight: float | jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array], list[ActivationPair]]:
    """Returns the loss of a batch, its terms before weighting, and what was compared.

    The terms are `task`, `alignment` and `classes_left_out`, see `distillation_loss`. The weight of
    the alignment is that of the configuration if None.
    """
    weight = config.weight if weight is None else weight
    passes = {'dtype': jnp.dtype(config.compute_dtype), 'remat': config.remat}
    tokens, lengths, answered = batch['tokens'], batch['lengths'], batch.get('answered')
    answer_tokens = 1 if answered is None else answered.shape[1]
    compared, how = [], {}
    if alignment is None or alignment.interchange:
        logits, _ = params(tokens, logits_at=token_columns(lengths - 1, answer_tokens), **passes)
    else:
        layers = tuple(sorted(set(alignment.student_layers)))
        logits, activations = READINGS[alignment.reading].read(
            params,
            tokens,
            lengths,
            site=alignment.site,
            layers=layers,
            positions=alignment.positions,
            answer_tokens=answer_tokens,
            **passes,
        )
        learned = isinstance(memory, LearnedMaps)
        compared = alignment.activation_pairs(
            activations,
            batch['teacher_activations'],
            batch.get('classes'),
            () if learned else memory,
            outputs=stacked_output(params, alignment.site) if alignment.written else None,
            projections=memory.maps if learned else (),
            layers=layers,
        )
        similarity = SIMILARITIES[alignment.similarity].of_losses
        how = {'similarity': similarity, 'min_count': alignment.min_count}
    loss, terms = distillation_loss(
        logits,
        batch.get('teacher_logits'),
        compared,
        labels=batch.get('labels'),
        answered=answered,
        direction='reverse' if config.task == 'reverse_kd' else 'forward',
        weight=weight,
        temperature=config.temperature,
        **how,
    )
    if alignment is not None and alignment.interchange:
        patched, said = student_patched(params, batch, alignment, **passes), batch['patched_logits']
        if isinstance(said, TopKLogits):
            terms['alignment'] = topk_kd_loss(patched, said)
        else:
            terms['alignment'] = kd_loss(patched, said, temperature=config.temperature)
        loss = weighted_sum(terms, {'task': 1.0, 'alignment': weight})
    return loss, terms, compared
