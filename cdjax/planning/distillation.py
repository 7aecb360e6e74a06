"""The programs of a distillation as shapes: what `cdjax.planning.plan` compiles.

They are those of the run itself: the teacher's pass, which stores its logits and neurons once, and
the student's training step, which pays for the student alone.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jax.sharding import Mesh

from cdjax.distillation.alignment import Alignment, LayerPairs
from cdjax.distillation.pairings import pair_layers
from cdjax.errors import InputError
from cdjax.losses import TopKLogits
from cdjax.models.config import LlamaConfig
from cdjax.models.llama import Llama
from cdjax.parallel.mesh import FSDP, TENSOR, check_batch
from cdjax.planning.compiling import Program
from cdjax.planning.programs import (
    abstract_neurons,
    abstract_rows,
    abstract_state,
    abstract_weights,
    activations_pass,
    check_shapes,
    config_from_dict,
)
from cdjax.planning.roofline import Work, llama_work
from cdjax.training.distillation import DistillationConfig, make_step
from cdjax.training.optimizer import OptimizerConfig, make_optimizer
from cdjax.training.step import jit_step


@dataclasses.dataclass(frozen=True)
class DistillationShapes:
    """All that decides how much memory and time a distillation takes; see `JobShapes`.

    Attributes:
        student: shape of the student; its parameters and the optimizer's moments are float32.
        teacher: shape of the teacher.
        batch_size: rows of a training step, over all devices (B).
        length: positions of a row (T).
        num_problems: rows of the store, each with the teacher's logits and neurons (N).
        microbatches: parts of a batch that are computed one after the other.
        top_k: logits of a problem that are stored, each with its token; all V if None.
        layer_pairs: as `pair_layers` reads it; '' for KD alone.
        classes: circuits compared in each pair (K); 0 compares all neurons of all rows.
        teacher_batch_size: rows of the teacher's pass.
        teacher_dtype: of the teacher's parameters, computation and stored neurons.
        compute_dtype: of the student's computation.
        remat: key of `REMAT_POLICIES`, of the student's step.
        keep_teacher: whether the teacher's parameters stay on the devices while the student trains.
        keep_start: whether those that the student starts from do, which is trained in a copy.
    """

    student: LlamaConfig
    teacher: LlamaConfig
    batch_size: int
    length: int
    num_problems: int
    microbatches: int = 1
    top_k: int | None = None
    layer_pairs: str = 'last'
    classes: int = 8
    teacher_batch_size: int = 512
    teacher_dtype: str = 'bfloat16'
    compute_dtype: str = 'bfloat16'
    remat: str = 'full'
    keep_teacher: bool = True
    keep_start: bool = False

    builder: ClassVar[str] = 'cdjax.planning.distillation:distillation_programs'

    def __post_init__(self):
        check_shapes(self)
        if self.classes < 0:
            raise InputError(f'classes={self.classes} must not be negative')
        if self.student.vocab_size != self.teacher.vocab_size:
            raise InputError(
                f'the student has {self.student.vocab_size} tokens and the teacher '
                f'{self.teacher.vocab_size}: distillation needs one vocabulary'
            )
        config = self.config()  # raises for microbatches that do not divide the batch
        if self.pairs:
            config.check_aligned()

    @property
    def pairs(self) -> LayerPairs:
        """The pairs of layers that are aligned."""
        if not self.layer_pairs:
            return ()
        return pair_layers(self.layer_pairs, self.student, self.teacher)

    @property
    def stored_layers(self) -> tuple[int, ...]:
        """The teacher's layers whose neurons are stored."""
        return tuple(sorted({teacher for _, teacher in self.pairs}))

    @property
    def models(self) -> dict[str, tuple[LlamaConfig, str]]:
        """Shape and dtype of the teacher and of the student."""
        return {
            'teacher': (self.teacher, self.teacher_dtype),
            'student': (self.student, 'float32'),
        }

    @property
    def least_batch(self) -> int:
        """One problem in each part of a batch, or what CKA needs."""
        return self.config().least_aligned_batch if self.pairs else self.microbatches

    @property
    def store_bytes(self) -> int:
        """Host memory of a `TeacherStore`: float32 logits, and the neurons of paired layers."""
        width = len(self.stored_layers) * self.teacher.intermediate_size
        neurons = width * jnp.dtype(self.teacher_dtype).itemsize
        logits = 4 * self.teacher.vocab_size if self.top_k is None else 8 * self.top_k
        return self.num_problems * (logits + neurons)

    def config(self) -> DistillationConfig:
        """Returns the distillation of these shapes."""
        return DistillationConfig(
            OptimizerConfig(steps=1000, learning_rate=1e-4),
            top_k=self.top_k,
            batch_size=self.batch_size,
            microbatches=self.microbatches,
            compute_dtype=self.compute_dtype,
            remat=self.remat,
        )

    def works(self, fsdp: int, tensor: int) -> list[Work]:
        """Returns what one batch of the teacher's pass does, and one step of the student."""
        teacher = llama_work(
            *(self.teacher, self.teacher_batch_size, self.length, 1),
            fsdp=fsdp,
            tensor=tensor,
            backward='none',
            compute_bytes=jnp.dtype(self.teacher_dtype).itemsize,
        )
        student = llama_work(
            *(self.student, self.batch_size, self.length, 1),
            fsdp=fsdp,
            tensor=tensor,
            backward='weights',
            remat=self.remat,
            compute_bytes=jnp.dtype(self.compute_dtype).itemsize,
            microbatches=self.microbatches,
        )
        return [teacher, student]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> 'DistillationShapes':
        """Returns the shapes that `dataclasses.asdict` has taken apart."""
        models = {name: config_from_dict(fields[name]) for name in ('student', 'teacher')}
        return cls(**{**fields, **models})


def distillation_programs(mesh: Mesh, recipe: dict[str, Any]) -> list[Program]:
    """Returns the teacher's pass and the student's step; a `Builder` of `cdjax.planning.compiling`.

    Args:
        mesh: the mesh.
        recipe: `dataclasses.asdict` of a `DistillationShapes`.

    Raises:
        InputError: the rows of the batch do not divide over the mesh.
    """
    shapes = DistillationShapes.from_dict(recipe)
    check_batch(shapes.batch_size, mesh, microbatches=shapes.microbatches)
    teacher = abstract_weights(shapes.teacher, shapes.teacher_dtype, mesh)
    of_teacher, of_student = shapes.works(mesh.shape[FSDP], mesh.shape[TENSOR])
    collect = activations_pass(
        'teacher',
        teacher,
        mesh,
        batch_size=min(shapes.teacher_batch_size, shapes.num_problems),
        length=shapes.length,
        layers=shapes.stored_layers,
        top_k=None if shapes.top_k is None else (shapes.top_k, shapes.config().temperature),
        work=of_teacher,
    )
    return [collect, _student_step(mesh, shapes, teacher, of_student)]


def _student_step(mesh: Mesh, shapes: DistillationShapes, teacher: Llama, work: Work) -> Program:
    """The step of `distill`, with the teacher beside it."""
    B, pairs, width = shapes.batch_size, shapes.pairs, shapes.teacher.intermediate_size
    config = shapes.config()
    tx = make_optimizer(config.suited_to(pretrained=shapes.keep_start).optimizer)
    state = abstract_state(lambda key: Llama(shapes.student, key), tx, mesh)
    row = lambda name, shape, dtype: {name: abstract_rows(mesh, name, shape, dtype)}
    batch = {
        **row('tokens', (B, shapes.length), jnp.int32),
        **row('lengths', (B,), jnp.int32),
    }
    if shapes.top_k is None:
        batch |= row('teacher_logits', (B, shapes.teacher.vocab_size), jnp.float32)
    else:
        values, tokens = (
            abstract_rows(mesh, 'teacher_logits', (B, shapes.top_k), dtype)
            for dtype in (jnp.float32, jnp.int32)
        )
        batch['teacher_logits'] = TopKLogits(values, tokens, config.temperature)
    alignment = None
    if pairs:
        alignment = Alignment(pairs)
        batch |= row('teacher_activations', (B, len(pairs), width), jnp.dtype(shapes.teacher_dtype))
    if pairs and shapes.classes:
        batch |= row('classes', (B,), jnp.int32)
        masks = abstract_neurons(mesh, (shapes.classes, len(pairs), width))
        alignment = Alignment(pairs, teacher_masks=masks, num_classes=shapes.classes)
    kinds = {
        'student': state.params,
        'optimizer': state.opt_state,
        'batch from the store': (batch, alignment),
        'step and key': (state.step, state.key),
    }
    beside = {'teacher': teacher} if shapes.keep_teacher else {}
    if shapes.keep_start:
        beside['first student'] = state.params
    return Program(
        'student step',
        jit_step(make_step(tx, config), state),
        (state, batch, alignment),
        kinds,
        work,
        beside=beside,
    )
