"""Stage 2: a student learns the teacher's answers, and to represent them as its circuits do.

`KD + weight * sum over layer pairs of (1 - CKA)` on a small share of the problems. The teacher is
frozen and the problems are few, so its logits and activations are computed once; a step then
pays for the student alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.pairing import LayerPairs
from cdjax.data import Dataset, batch_indices
from cdjax.errors import InputError, check_finite, check_seed
from cdjax.inference.activations import answer_activations, answer_logits_and_activations
from cdjax.losses import ActivationPair, TopKLogits, distillation_loss
from cdjax.losses.cka import MIN_ROWS
from cdjax.models import Llama, LlamaConfig
from cdjax.models.flops import forward_flops
from cdjax.parallel.mesh import (
    check_batch,
    put_batch,
    split_neurons,
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
from cdjax.training.step import jit_step

# A student of random weights generalises from a small share by its decay (README, "Where students
# start"); a checkpoint would lose in it what it knows.
FROM_NOTHING = OptimizerConfig(1000, 2e-3, warmup_steps=100, weight_decay=1.0)


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """How a student is distilled.

    Attributes:
        optimizer: AdamW and its schedule; its `steps` are the steps of the distillation. What it
            leaves open suits the student, see `suited_to`.
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
    weight: float = 1.0
    temperature: float = 2.0
    top_k: int | None = None
    batch_size: int = 128
    microbatches: int = 1
    seed: int = 0
    init_std: float = 0.02
    compute_dtype: str = 'float32'
    remat: str = 'none'

    def __post_init__(self):
        check_finite(weight=self.weight, init_std=self.init_std, temperature=self.temperature)
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

    def check_aligned(self) -> None:
        """Raises InputError where a batch, or a part of it, is too small for CKA."""
        if self.batch_size < self.least_aligned_batch:
            parts = f' in {self.microbatches} microbatches' if self.microbatches > 1 else ''
            raise InputError(
                f'batch_size={self.batch_size}{parts} is too small: CKA needs at least {MIN_ROWS} '
                'problems at once'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """What is compared by CKA at the answer position.

    Attributes:
        pairs: `((student layer, teacher layer), ...)`.
        classes: int `[N]`, the class of each problem: circuits are compared within each class,
            that class's problems and columns only. None: all problems, all neurons.
        teacher_masks: `[K, L, F]`, the columns of each class in the teacher.
        student_masks: `[K, L, F]` in the student; None takes all its neurons, for a student
            from nothing has no circuits yet.
    """

    pairs: LayerPairs
    classes: np.ndarray | None = None
    teacher_masks: np.ndarray | None = None
    student_masks: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherStore:
    """What the frozen teacher says of N problems, on the host.

    Attributes:
        logits: at the answer position, float32 `[N, V]` or the top k of them.
        neurons: `[N, len(layers), F]` at the answer position.
        layers: those whose neurons are stored.
        vocab_size: V.
    """

    logits: np.ndarray | TopKLogits
    neurons: np.ndarray
    layers: tuple[int, ...]
    vocab_size: int

    @classmethod
    def build(
        cls,
        teacher: Llama,
        dataset: Dataset,
        *,
        mesh: Mesh,
        layers: Iterable[int] | None = None,
        top_k: int | None = None,
        temperature: float = 1.0,
        tokens_per_pass: int = TOKENS_PER_PASS,
    ) -> 'TeacherStore':
        """Runs the teacher once over all problems.

        Args:
            teacher: the teacher.
            dataset: N problems.
            mesh: the mesh.
            layers: whose neurons are kept; all if None.
            top_k: tokens whose logits are kept, those of the highest; all if None.
            temperature: of the KD that is going to read them; only the top k depend on it.
            tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.

        Raises:
            InputError: a `top_k` above the number of tokens.
        """
        vocab_size = teacher.config.vocab_size
        if top_k is not None and top_k > vocab_size:
            raise InputError(f'top_k={top_k}: the teacher has {vocab_size} tokens')
        chosen = range(teacher.config.num_layers) if layers is None else sorted(set(layers))
        logits, neurons = answer_logits_and_activations(
            teacher,
            dataset,
            mesh=mesh,
            layers=tuple(chosen),
            top_k=None if top_k is None else (top_k, temperature),
            tokens_per_pass=tokens_per_pass,
            description='teacher activations',
        )
        return cls(logits, neurons, tuple(chosen), vocab_size)

    def __len__(self) -> int:
        return len(self.neurons)

    def __getitem__(self, rows: slice | np.ndarray) -> 'TeacherStore':
        """Returns what the teacher says of some of the problems."""
        return dataclasses.replace(self, logits=self.logits_of(rows), neurons=self.neurons[rows])

    def logits_of(self, rows: slice | np.ndarray) -> np.ndarray | TopKLogits:
        """Returns the logits of some of the problems."""
        return jax.tree.map(lambda x: x[rows], self.logits)

    def neurons_of(self, layers: Iterable[int]) -> np.ndarray:
        """Returns `[N, len(layers), F]`, the neurons of these layers in this order."""
        return self.neurons[:, [self.layers.index(layer) for layer in layers]]


def distill(
    student: LlamaConfig | Llama,
    store: TeacherStore,
    dataset: Dataset,
    config: DistillationConfig,
    *,
    mesh: Mesh,
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
        mesh: the mesh.
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
    model_config = student if isinstance(student, LlamaConfig) else student.config
    if model_config.vocab_size != store.vocab_size:
        raise InputError(
            f'the student has {model_config.vocab_size} tokens and the teacher '
            f'{store.vocab_size}: distillation needs one vocabulary'
        )
    aligned = alignment is not None
    check_distillation(config, vocab_size=store.vocab_size, mesh=mesh, aligned=aligned)
    assert len(store) == len(dataset), (len(store), len(dataset))
    config = config.suited_to(pretrained=isinstance(student, Llama))
    tx = make_optimizer(config.optimizer)
    key = jax.random.key(config.seed)
    if isinstance(student, LlamaConfig):
        state = init_state(lambda key: Llama(student, key, init_std=config.init_std), tx, key, mesh)
    else:
        state = state_of(student, tx, key, mesh)
    rows, columns = np.arange(len(dataset)), alignment_columns(alignment, mesh)
    if alignment is not None:  # taken out once: a step then touches its own rows only
        paired_NxPxF = store.neurons_of(teacher for _, teacher in alignment.pairs)

    def batch_at(step: int) -> dict[str, Any]:
        index = batch_indices(rows, config.batch_size, seed=config.seed, step=step)
        batch = {
            'tokens': dataset.tokens[index],
            'lengths': dataset.lengths[index],
            'teacher_logits': store.logits_of(index),
        }
        if alignment is not None:
            batch['teacher_neurons'] = paired_NxPxF[index]
            if alignment.classes is not None:
                batch['classes'] = np.asarray(alignment.classes[index], np.int32)
        return batch

    pairs = () if alignment is None else alignment.pairs
    doctor = GradientDoctor(
        lambda params, batch, columns: distillation_terms(params, batch, columns, config, pairs),
        task='task',
        weights={'alignment': config.weight if pairs else 0.0},
    )

    def diagnose(state: TrainState, batch: dict[str, Any]) -> GradientReport:
        part = put_batch(first_microbatch(batch, config.microbatches), mesh)
        return doctor(state.params, part, columns)

    step = jit_step(make_step(tx, config, pairs), state)
    shape = (config.batch_size, dataset.tokens.shape[1])
    state, history = fit(
        lambda state, batch: step(state, batch, columns),
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
        tokens_per_step=shape[0] * shape[1],
        flops_per_step=3 * forward_flops(model_config, *shape, logits=shape[0]),
    )
    return state.params, history


def check_distillation(
    config: DistillationConfig, *, vocab_size: int, mesh: Mesh, aligned: bool
) -> None:
    """Raises InputError for settings that cannot work; to be asked before a model is loaded.

    Args:
        config: the distillation.
        vocab_size: tokens of the teacher.
        mesh: the mesh.
        aligned: whether representations are aligned.
    """
    check_batch(config.batch_size, mesh, microbatches=config.microbatches)
    if aligned:
        config.check_aligned()
    if config.top_k is not None and config.top_k > vocab_size:
        raise InputError(f'top_k={config.top_k}: the teacher has {vocab_size} tokens')


def make_step(tx: optax.GradientTransformation, config: DistillationConfig, pairs: LayerPairs = ()):
    """Returns the step `(state, batch, columns) -> (state, metrics)`, to be jitted by `jit_step`.

    A batch holds `tokens [B, T]`, `lengths [B]`, `teacher_logits` (`[B, V]`, or the top k) and,
    where layers are paired, `teacher_neurons [B, pairs, F]` and possibly `classes [B]`; `columns`
    is what `alignment_columns` returns.
    """

    def loss(params, batch, columns):
        terms = distillation_terms(params, batch, columns, config, pairs)
        return terms['task'] + config.weight * terms['alignment'], terms

    gradients = accumulate_gradients(jax.value_and_grad(loss, has_aux=True), config.microbatches)

    def step(state: TrainState, batch, columns):
        (value, terms), grads = gradients(state.params, batch, columns)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {'loss': value, **terms, 'gradient': optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return step


def distillation_terms(
    params: Llama, batch, columns, config: DistillationConfig, pairs: LayerPairs
) -> dict[str, jax.Array]:
    """Returns `task`, `alignment` and `classes_left_out` of a batch, before weighting."""
    dtype = jnp.dtype(config.compute_dtype)
    tokens, lengths = batch['tokens'], batch['lengths']
    if pairs:
        logits, neurons_BxLxF = answer_activations(
            params, tokens, lengths, dtype=dtype, remat=config.remat
        )
    else:
        logits, _ = params(tokens, logits_at=lengths - 1, dtype=dtype, remat=config.remat)
    assignments_BxK = None
    if 'classes' in batch:
        num_classes = columns['teacher'].shape[0]
        assignments_BxK = jax.nn.one_hot(batch['classes'], num_classes)
    aligned = [
        ActivationPair(
            student=neurons_BxLxF[:, student_layer],
            teacher=batch['teacher_neurons'][:, i],
            assignments=assignments_BxK,
            student_masks=None if 'student' not in columns else columns['student'][:, i],
            teacher_masks=None if 'teacher' not in columns else columns['teacher'][:, i],
        )
        for i, (student_layer, _) in enumerate(pairs)
    ]
    _, terms = distillation_loss(
        logits,
        batch['teacher_logits'],
        aligned,
        weight=config.weight,
        temperature=config.temperature,
    )
    return terms


def alignment_columns(alignment: Alignment | None, mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the masks of the paired layers: `teacher` and `student`, float32 `[K, pairs, F]`."""
    columns = {}
    if alignment is not None and alignment.classes is not None:
        student_layers, teacher_layers = map(list, zip(*alignment.pairs, strict=True))
        columns['teacher'] = np.asarray(alignment.teacher_masks[:, teacher_layers], np.float32)
        if alignment.student_masks is not None:
            columns['student'] = np.asarray(alignment.student_masks[:, student_layers], np.float32)
    return split_neurons(columns, mesh)
