"""Stage 2: a student learns the teacher's answers, and to represent them as its circuits do.

`KD + weight * sum over layer pairs of (1 - similarity)` on a small share of the problems. The
teacher is frozen and the problems are few, so its logits and activations are computed once; a step
then pays for the student alone.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from cdjax.data import Dataset, batch_indices
from cdjax.distillation.alignment import Alignment
from cdjax.errors import InputError, check_finite, check_seed
from cdjax.inference.activations import answer_activations, answer_logits_and_activations
from cdjax.losses import TASKS, ActivationPair, RowMemory, TopKLogits, distillation_loss
from cdjax.losses.cka import MIN_ROWS
from cdjax.models import Llama, LlamaConfig
from cdjax.models.flops import forward_flops
from cdjax.models.llama import INIT_STD
from cdjax.parallel.mesh import (
    check_batch,
    one_device,
    put_batch,
    replicate,
)
from cdjax.run.options import TOKENS_PER_PASS, RunOptions
from cdjax.training.accumulation import (
    accumulate_gradients,
    check_batch_size,
    first_microbatch,
)
from cdjax.training.diagnostics import GradientDoctor, GradientReport
from cdjax.training.loop import Point, TrainState, fit, init_state, state_of
from cdjax.training.optimizer import FINE_TUNING, OptimizerConfig, make_optimizer
from cdjax.training.step import jit_step, several_steps, steps_at_once

# A student of random weights generalises from a small share by its decay (README, "Where students
# start"); a checkpoint would lose in it what it knows.
FROM_NOTHING = OptimizerConfig(1000, 2e-3, warmup_steps=100, weight_decay=1.0)


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """How a student is distilled.

    Attributes:
        optimizer: AdamW and its schedule; its `steps` are the steps of the distillation. What it
            leaves open suits the student, see `suited_to`.
        task: where the answers are from, a key of `cdjax.losses.TASKS`: 'kd' and 'reverse_kd' from
            the teacher, 'cross_entropy' from the data.
        weight: λ of the alignment.
        temperature: T of the KD.
        top_k: tokens of the teacher's answer that are stored for each problem (`TopKLogits`), the
            rest as one; all V if None.
        batch_size: problems a step.
        microbatches: parts of a batch that are computed one after the other, in the memory of one;
            CKA then compares the problems of a part.
        seed: of a new student's weights and of the order of the problems.
        init_std: standard deviation of a new student's matrices. It decides whether a narrow
            student generalises from a small share (README, "Where students start").
        compute_dtype: dtype of the computation (`bfloat16`); the parameters stay float32.
        remat: what the backward pass keeps, a key of `cdjax.models.llama.REMAT_POLICIES`.
    """

    optimizer: OptimizerConfig = OptimizerConfig(FROM_NOTHING.steps)
    task: str = 'kd'
    weight: float = 1.0
    temperature: float = 2.0
    top_k: int | None = None
    batch_size: int = 128
    microbatches: int = 1
    seed: int = 0
    init_std: float = INIT_STD
    compute_dtype: str = 'float32'
    remat: str = 'none'

    def __post_init__(self):
        check_finite(weight=self.weight, init_std=self.init_std, temperature=self.temperature)
        if self.task not in TASKS:
            raise InputError(f'task={self.task}: choose from {", ".join(TASKS)}')
        if self.task == 'reverse_kd' and self.top_k is not None:
            raise InputError(
                f'top_k={self.top_k}: reverse KD weighs tokens by the student, and needs the '
                "teacher's logits of all: leave out top_k"
            )
        if self.weight < 0:
            raise InputError(f'weight={self.weight} of the alignment must not be negative')
        if not self.init_std > 0:
            raise InputError(f'init_std={self.init_std} must be above 0')
        if not self.temperature > 0:
            raise InputError(f'temperature={self.temperature} must be above 0')
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f'top_k={self.top_k}: at least 1 token is needed')
        check_batch_size(self.batch_size, self.microbatches)
        check_seed(seed=self.seed)

    def suited_to(self, *, pretrained: bool) -> 'DistillationConfig':
        """Returns the distillation of a student that was trained before, or of one from nothing.

        What the optimizer leaves open is taken from `FINE_TUNING` or from `FROM_NOTHING`.
        """
        chosen = self.optimizer.or_else(FINE_TUNING if pretrained else FROM_NOTHING)
        return dataclasses.replace(self, optimizer=chosen)

    def describe(self) -> str:
        """Returns a line on the values in force; of a training that leaves nothing open."""
        return f'{self.optimizer.describe()}, computed in {self.compute_dtype}'

    @property
    def least_aligned_batch(self) -> int:
        """Problems of the smallest batch that can be aligned: what CKA needs in each part of it."""
        return MIN_ROWS * self.microbatches

    def check_aligned(self, problems: int) -> None:
        """Raises InputError for a batch that cannot be aligned.

        It, or a part of it, is too small for CKA; or larger than all N problems. What is repeated
        in a batch resembles itself in every model: debiased CKA, which leaves out the comparison of
        each row with itself, would take it for a likeness of student and teacher.
        """
        if self.batch_size > problems:
            raise InputError(
                f'batch_size={self.batch_size} is more than the {problems} problems of the share, '
                'and CKA takes a problem that is repeated in a batch for a likeness: choose '
                f'batch_size={problems} or less, or a larger share'
            )
        if self.batch_size < self.least_aligned_batch:
            parts = f' in {self.microbatches} microbatches' if self.microbatches > 1 else ''
            raise InputError(
                f'batch_size={self.batch_size}{parts} is too small: CKA needs at least {MIN_ROWS} '
                'problems at once'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherStore:
    """What the frozen teacher says of N problems, on the host.

    Attributes:
        logits: at the answer position, float32 `[N, V]` or the top k of them.
        activations: `[N, len(layers), ...]` at the answer position, `[N, len(layers), F]` of
            neurons; at P positions of the prompt `[N, len(layers), P, ...]`.
        layers: those whose activations are stored.
        vocab_size: V.
        site: whose activations they are.
        positions: of the prompt; None for the answer position.
    """

    logits: np.ndarray | TopKLogits
    activations: np.ndarray
    layers: tuple[int, ...]
    vocab_size: int
    site: str = 'neurons'
    positions: tuple[int, ...] | None = None

    @classmethod
    def build(
        cls,
        teacher: Llama,
        dataset: Dataset,
        *,
        mesh: Mesh | None = None,
        layers: Iterable[int] | None = None,
        site: str = 'neurons',
        positions: tuple[int, ...] | None = None,
        top_k: int | None = None,
        temperature: float = 1.0,
        tokens_per_pass: int = TOKENS_PER_PASS,
    ) -> 'TeacherStore':
        """Runs the teacher once over all problems.

        Args:
            teacher: the teacher.
            dataset: N problems.
            mesh: the mesh; one device if None.
            layers: whose activations are kept; all if None.
            site: as in `Alignment`, which is going to read them.
            positions: as in `Alignment`.
            top_k: tokens whose logits are kept, those of the highest; all if None.
            temperature: of the KD that is going to read them; only the top k depend on it.
            tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.

        Raises:
            InputError: a `top_k` above the number of tokens, or positions behind a prompt's end.
        """
        vocab_size = teacher.config.vocab_size
        if top_k is not None and top_k > vocab_size:
            raise InputError(f'top_k={top_k}: the teacher has {vocab_size} tokens')
        check_positions_within(positions, dataset)
        chosen = range(teacher.config.num_layers) if layers is None else sorted(set(layers))
        logits, activations = answer_logits_and_activations(
            teacher,
            dataset,
            mesh=mesh,
            site=site,
            layers=tuple(chosen),
            positions=positions,
            top_k=None if top_k is None else (top_k, temperature),
            tokens_per_pass=tokens_per_pass,
            description='teacher activations',
        )
        return cls(logits, activations, tuple(chosen), vocab_size, site, positions)

    def __len__(self) -> int:
        return len(self.activations)

    def __getitem__(self, rows: slice | np.ndarray) -> 'TeacherStore':
        """Returns what the teacher says of some of the problems."""
        return dataclasses.replace(
            self, logits=self.logits_of(rows), activations=self.activations[rows]
        )

    def logits_of(self, rows: slice | np.ndarray) -> np.ndarray | TopKLogits:
        """Returns the logits of some of the problems."""
        return jax.tree.map(lambda x: x[rows], self.logits)

    def of_layers(self, layers: Iterable[int]) -> np.ndarray:
        """Returns `[N, len(layers), ...]`, the activations of these layers in this order."""
        return self.activations[:, [self.layers.index(layer) for layer in layers]]


def check_positions_within(positions: tuple[int, ...] | None, dataset: Dataset) -> None:
    """Raises InputError for positions that some prompt does not have."""
    first, stop = dataset.common_columns
    if positions is not None and not first <= min(positions) <= max(positions) < stop:
        raise InputError(
            f'align_positions={",".join(map(str, positions))}: the shortest prompt has '
            f'{stop - first} tokens, name positions from {first} to {stop - 1}'
        )


def distill(
    student: LlamaConfig | Llama,
    store: TeacherStore,
    dataset: Dataset,
    config: DistillationConfig,
    *,
    mesh: Mesh | None = None,
    alignment: Alignment | None = None,
    description: str = 'distill',
    workdir: epath.PathLike | None = None,
    options: RunOptions = RunOptions(),
    evaluate: Callable[[Llama], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    best: tuple[str, str] | None = None,
) -> tuple[Llama, list[Point]]:
    """Distils a teacher's answers, and with an alignment its representations, into a student.

    Args:
        student: a shape, for a student from nothing, or a model to start from (it is copied);
            what `config.optimizer` leaves open depends on which of the two it is.
        store: what the teacher says of the problems, row by row.
        dataset: the share of N problems to learn from.
        config: the distillation.
        mesh: the mesh; one device if None.
        alignment: what is aligned; KD alone if None.
        description: name on the progress bar.
        workdir: folder of checkpoints and metrics; a killed distillation continues from it.
        options: what is written and checked on the way.
        evaluate: student → scalars, logged as `evaluation/NAME`.
        evaluate_every: steps between evaluations; at the end only if None.
        best: see `fit`: which checkpoint is kept beside the newest ones.

    Returns:
        The student, and the log points of `fit`.

    Raises:
        InputError: a student whose vocabulary is not the teacher's, or a batch too small for CKA.
        cdjax.training.diagnostics.GradientError: a task or an alignment that trains nothing.
    """
    mesh = one_device() if mesh is None else mesh
    model_config = student if isinstance(student, LlamaConfig) else student.config
    if model_config.vocab_size != store.vocab_size:
        raise InputError(
            f'the student has {model_config.vocab_size} tokens and the teacher '
            f'{store.vocab_size}: distillation needs one vocabulary'
        )
    assert len(store) == len(dataset), (len(store), len(dataset))
    check_distillation(
        config, len(dataset), vocab_size=store.vocab_size, mesh=mesh, alignment=alignment
    )
    config = config.suited_to(pretrained=isinstance(student, Llama))
    tx = make_optimizer(config.optimizer)
    key = jax.random.key(config.seed)
    if isinstance(student, LlamaConfig):
        state = init_state(lambda key: Llama(student, key, init_std=config.init_std), tx, key, mesh)
    else:
        state = state_of(student, tx, key, mesh)
    rows, placed = np.arange(len(dataset)), None
    if alignment is not None:
        assert (store.site, store.positions) == (alignment.site, alignment.positions)
        too_few = alignment.check_batch(config.batch_size // config.microbatches)
        if too_few is not None:
            warnings.warn(too_few, stacklevel=2)
        placed = alignment.placed(mesh)
        # Taken out once: a step then touches its own rows only.
        paired_NxPx = store.of_layers(alignment.teacher_layers)
        if alignment.teacher_rows is not None:
            paired_NxPx = paired_NxPx[alignment.teacher_rows]
        widths = alignment.features_shape(model_config), paired_NxPx.shape[2:]
        memories = alignment.empty_memories(*map(math.prod, widths))
        state = dataclasses.replace(state, memory=replicate(memories, mesh))

    def batch_at(step: int) -> dict[str, Any]:
        index = batch_indices(rows, config.batch_size, seed=config.seed, step=step)
        batch = {
            'tokens': dataset.tokens[index],
            'lengths': dataset.lengths[index],
        }
        if config.task == 'cross_entropy':
            batch['labels'] = dataset.answers[index]
        else:
            batch['teacher_logits'] = store.logits_of(index)
        if alignment is not None:
            batch['teacher_activations'] = paired_NxPx[index]
            if alignment.classes is not None:
                batch['classes'] = np.asarray(alignment.classes[index], np.int32)
        return batch

    doctor = GradientDoctor(
        lambda params, *args: distillation_terms(params, *args, config)[1],
        task='task',
        weights={'alignment': 0.0 if alignment is None else config.weight},
    )

    def diagnose(state: TrainState, batch: dict[str, Any]) -> GradientReport:
        part = put_batch(first_microbatch(batch, config.microbatches), mesh)
        return doctor(state.params, part, placed, state.memory)

    shape = (config.batch_size, dataset.tokens.shape[1])
    flops = 3 * forward_flops(model_config, *shape, logits=shape[0])
    at_once = steps_at_once(flops, mesh)
    step = jit_step(several_steps(make_step(tx, config), at_once), state)
    state, history = fit(
        lambda state, batch: step(state, batch, placed),
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
        facts={'config': config, 'data': dataset.hash, 'alignment': alignment},
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
    if config.top_k is not None and config.top_k > vocab_size:
        raise InputError(f'top_k={config.top_k}: the teacher has {vocab_size} tokens')


def make_step(tx: optax.GradientTransformation, config: DistillationConfig):
    """Returns the step `(state, batch, alignment) -> (state, metrics)`, for `jit_step`.

    A batch holds `tokens [B, T]`, `lengths [B]`, `teacher_logits` (`[B, V]`, or the top k) or, of
    cross-entropy, `labels [B]`; and, where layers are paired, `teacher_activations [B, pairs, ...]`
    and possibly `classes [B]`. The alignment is None, or one that was `placed`.
    """

    def loss(params, batch, alignment, memory):
        total, terms, compared = distillation_terms(params, batch, alignment, memory, config)
        return total, (terms, compared if memory else ())

    gradients = accumulate_gradients(jax.value_and_grad(loss, has_aux=True), config.microbatches)

    def step(state: TrainState, batch, alignment=None):
        (value, (terms, compared)), grads = gradients(state.params, batch, alignment, state.memory)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        memory = tuple(
            past.push(pair.student, pair.teacher, pair.assignments)
            for past, pair in zip(state.memory, compared, strict=True)
        )
        metrics = {'loss': value, **terms, 'gradient': optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, state.key, memory), metrics

    return step


def distillation_terms(
    params: Llama,
    batch,
    alignment: Alignment | None,
    memory: tuple[RowMemory, ...],
    config: DistillationConfig,
) -> tuple[jax.Array, dict[str, jax.Array], list[ActivationPair]]:
    """Returns the loss of a batch, its terms before weighting, and what was compared.

    The terms are `task`, `alignment` and `classes_left_out`, see `distillation_loss`.
    """
    dtype = jnp.dtype(config.compute_dtype)
    tokens, lengths = batch['tokens'], batch['lengths']
    if alignment is None:
        logits, _ = params(tokens, logits_at=lengths - 1, dtype=dtype, remat=config.remat)
        compared, how = [], {}
    else:
        logits, activations = answer_activations(
            params,
            tokens,
            lengths,
            site=alignment.site,
            positions=alignment.positions,
            dtype=dtype,
            remat=config.remat,
        )
        compared = alignment.activation_pairs(
            activations, batch['teacher_activations'], batch.get('classes'), memory
        )
        how = {'similarity': alignment.similarity, 'min_count': alignment.min_count}
    loss, terms = distillation_loss(
        logits,
        batch.get('teacher_logits'),
        compared,
        labels=batch.get('labels'),
        direction='reverse' if config.task == 'reverse_kd' else 'forward',
        weight=config.weight,
        temperature=config.temperature,
        **how,
    )
    return loss, terms, compared
