"""The programs of a distillation as shapes: what `cdjax.planning.plan` compiles.

They are those of the run itself: the teacher's pass, which stores its logits and neurons once, and
the student's training step, which pays for the student alone. Of an interchange the patched teacher
answers too, before the first step, and a step has two more passes of the student.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.interchange import SOURCES, check_single_answers, patched_rows
from cdjax.distillation.readings import READINGS
from cdjax.errors import InputError
from cdjax.inference.activations import answer_rows
from cdjax.inference.rows import jit_rows, rows_per_pass
from cdjax.losses import TopKLogits
from cdjax.models import SITES
from cdjax.models.config import LlamaConfig
from cdjax.models.llama import Llama
from cdjax.parallel.mesh import FSDP, TENSOR, check_batch
from cdjax.planning.job import (
    Program,
    abstract_neurons,
    abstract_rows,
    abstract_state,
    abstract_weights,
    check_job,
    everywhere,
    frozen_pass,
)
from cdjax.planning.roofline import Work, llama_work
from cdjax.run.options import RunOptions
from cdjax.training.distillation import DistillationConfig, step_of
from cdjax.training.learned_maps import first_memory
from cdjax.training.optimizer import make_optimizer
from cdjax.training.step import jit_step


@dataclasses.dataclass(frozen=True)
class DistillationJob:
    """A distillation, by its configuration and the shapes of what it is given; see `Job`.

    Attributes:
        student: shape of the student; its parameters and the optimizer's moments are float32.
        teacher: shape of the teacher.
        length: positions of a row (T).
        num_problems: rows of the store, each with the teacher's logits and neurons (N).
        config: the distillation.
        alignment: what is compared, in pairs that are known, without classes and masks: within the
            teacher's circuits of `num_classes` classes where that is set, as an interchange needs
            it, which patches circuits of both. None for KD alone.
        teacher_dtype: of the teacher's parameters, computation and stored neurons.
        options: of the run.
        keep_teacher: whether the teacher's parameters stay on the devices while the student trains.
        keep_start: whether those that the student starts from do, which is trained in a copy.
        answer_tokens: tokens of an answer (A), each with logits.
    """

    student: LlamaConfig
    teacher: LlamaConfig
    length: int
    num_problems: int
    config: DistillationConfig = DistillationConfig()
    alignment: Alignment | None = None
    teacher_dtype: str = 'bfloat16'
    options: RunOptions = RunOptions()
    keep_teacher: bool = True
    keep_start: bool = False
    answer_tokens: int = 1

    def __post_init__(self):
        check_job(self)
        if self.student.vocab_size != self.teacher.vocab_size:
            raise InputError(
                f'the student has {self.student.vocab_size} tokens and the teacher '
                f'{self.teacher.vocab_size}: distillation needs one vocabulary'
            )
        if self.alignment is not None:
            self.config.check_aligned(self.num_problems)
            self.alignment.check_memory(self.config.microbatches)
        if self.interchange:
            check_single_answers(self.answer_tokens)
            if self.alignment.num_classes is None:
                raise InputError(
                    f'similarity={self.alignment.similarity} patches the circuits of classes: say '
                    'of how many, num_classes'
                )
        suited = self.config.suited_to(pretrained=self.keep_start)
        object.__setattr__(self, 'config', suited)

    def with_batch(self, rows: int) -> 'DistillationJob':
        """Returns the distillation with batches of so many rows."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, batch_size=rows))

    @property
    def stored_layers(self) -> tuple[int, ...]:
        """The teacher's layers whose activations are stored."""
        return () if self.alignment is None else tuple(sorted(set(self.alignment.teacher_layers)))

    @property
    def interchange(self) -> bool:
        """Whether circuits are patched."""
        return self.alignment is not None and self.alignment.interchange

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
        if self.alignment is None:
            return self.config.microbatches
        return self.config.least_aligned_batch

    @property
    def store_bytes(self) -> int:
        """Host memory of a `TeacherStore`: float32 logits, and activations of paired layers.

        And of an `Interchange`: the logits of the patched teacher, once for each source.
        """
        top_k = self.config.top_k
        row = self.answer_tokens * (4 * self.teacher.vocab_size if top_k is None else 8 * top_k)
        row *= 1 + (SOURCES if self.interchange else 0)
        if self.alignment is not None:
            width = len(self.stored_layers) * math.prod(self.alignment.features_shape(self.teacher))
            row += width * jnp.dtype(self.teacher_dtype).itemsize
        return self.num_problems * row

    def rows_of_pass(self, fsdp: int) -> int:
        """Returns the rows of a batch of the teacher's pass, over all devices."""
        return rows_per_pass(self.num_problems, self.length, fsdp, self.options.tokens_per_pass)

    def works(self, fsdp: int, tensor: int) -> list[Work]:
        """Returns what one batch of each of the teacher's passes does, and one step."""
        config = self.config
        teacher = functools.partial(
            llama_work,
            *(self.teacher, self.rows_of_pass(fsdp), self.length),
            fsdp=fsdp,
            tensor=tensor,
            backward='none',
            compute_bytes=jnp.dtype(self.teacher_dtype).itemsize,
        )
        student = functools.partial(
            llama_work,
            *(self.student, config.batch_size, self.length),
            fsdp=fsdp,
            tensor=tensor,
            remat=config.remat,
            compute_bytes=jnp.dtype(config.compute_dtype).itemsize,
            microbatches=config.microbatches,
        )
        A = self.answer_tokens
        passes, step = [teacher(A)], student(A, backward='weights')
        if self.interchange:
            # The pass that activations are taken from has no logits.
            passes.append(teacher(0) + teacher(A))
            step += student(0, backward='gradient') + student(A, backward='gradient')
        return [*passes, step]

    def programs(self, mesh: Mesh) -> list[Program]:
        """Returns the teacher's pass, that of the patched teacher if any, and the student's step.

        Raises:
            InputError: the rows of the batch do not divide over the mesh.
        """
        config = self.config
        check_batch(config.batch_size, mesh, microbatches=config.microbatches)
        teacher = abstract_weights(self.teacher, self.teacher_dtype, mesh)
        works = self.works(mesh.shape[FSDP], mesh.shape[TENSOR])
        top_k = None if config.top_k is None else (config.top_k, config.temperature)
        what = Alignment() if self.alignment is None else self.alignment
        said = answer_rows(
            *(what.site, self.stored_layers, what.positions, top_k),
            READINGS[what.stored].read,
            self.answer_tokens,
        )
        collect = jit_rows(said, mesh, several=True)
        size = (self.rows_of_pass(mesh.shape[FSDP]), self.length)
        passes = [frozen_pass('teacher', 'pass', collect, teacher, mesh, *size, works[0])]
        if self.interchange:
            passes.append(self._patched_pass(mesh, teacher, top_k, works[1]))
        return [*passes, self.student_step(mesh)]

    def _patched_pass(
        self, mesh: Mesh, teacher: Llama, top_k: tuple[int, float] | None, work: Work
    ) -> Program:
        """Returns the pass of `patch_teacher`, which is made once for each source."""
        rows, alignment = self.rows_of_pass(mesh.shape[FSDP]), self.alignment
        row = lambda name, *shape: {name: abstract_rows(mesh, name, (rows, *shape), jnp.int32)}
        batch = {
            **row('tokens', self.length),
            **row('lengths'),
            **row('classes'),
            **row('source_tokens', self.length),
        }
        counts = abstract_rows(mesh, 'counts', (rows,), jnp.bool_)
        units = SITES[alignment.site].units(self.teacher)
        shape = (alignment.num_classes, self.teacher.num_layers, units)
        constants = {'model': teacher, 'masks': abstract_neurons(mesh, shape)}
        answer = patched_rows(alignment.site, alignment.positions, top_k)
        return Program(
            'patched pass',
            jit_rows(answer, mesh, several=True),
            (constants, batch, counts),
            {'teacher': teacher, 'circuits': constants['masks'], 'batch': (batch, counts)},
            work,
        )

    def student_step(self, mesh: Mesh) -> Program:
        """Returns the step of `distill`, with the teacher beside it."""
        config, alignment = self.config, self.alignment
        work = self.works(mesh.shape[FSDP], mesh.shape[TENSOR])[-1]
        B, tx = config.batch_size, make_optimizer(config.optimizer)
        state = abstract_state(lambda key: Llama(self.student, key), tx, mesh)
        row = lambda name, shape, dtype: {name: abstract_rows(mesh, name, shape, dtype)}
        batch = {
            **row('tokens', (B, self.length), jnp.int32),
            **row('lengths', (B,), jnp.int32),
        }
        batch |= self._abstract_logits(mesh, 'teacher_logits')
        if self.answer_tokens > 1:
            batch |= row('answered', (B, self.answer_tokens), jnp.bool_)
        if self.interchange:
            batch |= row('source_tokens', (B, self.length), jnp.int32)
            batch |= self._abstract_logits(mesh, 'patched_logits')
            batch |= row('classes', (B,), jnp.int32)
            of_pairs = alignment.num_classes, len(alignment.pairs)
            masks = {
                f'{name}_masks': abstract_neurons(
                    mesh, (*of_pairs, SITES[alignment.site].units(model))
                )
                for name, (model, _) in self.models.items()
            }
            alignment = dataclasses.replace(alignment, **masks)
        elif alignment is not None:
            pairs, shape = len(alignment.pairs), alignment.compared_shape(self.teacher)
            dtype, K = jnp.dtype(self.teacher_dtype), alignment.num_classes
            batch |= row('teacher_activations', (B, pairs, *shape), dtype)
            widths = math.prod(alignment.compared_shape(self.student)), math.prod(shape)
            memories = jax.eval_shape(lambda: first_memory(alignment, config, *widths))
            state = dataclasses.replace(state, memory=everywhere(memories, mesh))
            if K is not None:
                batch |= row('classes', (B,), jnp.int32)
                units = SITES[alignment.site].units(self.teacher)
                masks = abstract_neurons(mesh, (K, pairs, units))
                alignment = dataclasses.replace(alignment, teacher_masks=masks)
        weight = jax.ShapeDtypeStruct((), jnp.float32) if config.weight else None
        weight = everywhere(weight, mesh)
        kinds = {
            'student': state.params,
            'optimizer': state.opt_state,
            'batch from the store': (batch, alignment),
            'step, key, memory and weight': (state.step, state.key, state.memory, weight),
        }
        beside = {}
        if self.keep_teacher:
            beside['teacher'] = abstract_weights(self.teacher, self.teacher_dtype, mesh)
        if self.keep_start:
            beside['first student'] = state.params
        return Program(
            'student step',
            jit_step(step_of(config), state),
            (state, batch, alignment, None, weight),
            kinds,
            work,
            beside=beside,
        )

    def _abstract_logits(self, mesh: Mesh, name: str) -> dict[str, Any]:
        """Returns logits of the teacher in a batch, or the top k of them."""
        top_k, A = self.config.top_k, self.answer_tokens
        shape = (self.config.batch_size, *((A,) if A > 1 else ()))
        if top_k is None:
            shape = (*shape, self.teacher.vocab_size)
            return {name: abstract_rows(mesh, name, shape, jnp.float32)}
        values, tokens = (
            abstract_rows(mesh, name, (*shape, top_k), dtype) for dtype in (jnp.float32, jnp.int32)
        )
        return {name: TopKLogits(values, tokens, self.config.temperature)}
