"""The programs of a discovery as shapes: what `cdjax.planning.plan` compiles.

They are those of the run itself: each model's passes, which store what the objective reads of it
and average its neurons, and the step that goes forward through the ablated models and back to the
masks.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax.numpy as jnp
from jax.sharding import Mesh

from cdjax.inference.activations import answer_rows
from cdjax.inference.means import site_activations
from cdjax.inference.rows import jit_rows, jit_sum, rows_per_pass
from cdjax.models import Llama
from cdjax.models.config import LlamaConfig
from cdjax.parallel.mesh import FSDP, TENSOR, check_batch
from cdjax.planning.job import (
    Program,
    abstract_neurons,
    abstract_rows,
    abstract_state,
    abstract_weights,
    check_job,
    frozen_pass,
)
from cdjax.planning.roofline import Work, llama_work
from cdjax.run.options import RunOptions
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.discovery_step import (
    RULES,
    make_discovery_optimizer,
    make_params,
    make_step,
)
from cdjax.training.step import jit_step


@dataclasses.dataclass(frozen=True)
class DiscoveryJob:
    """A discovery, by its configuration and the shapes of what it is given; see `Job`.

    Attributes:
        teacher: shape of the teacher.
        length: positions of a row (T).
        num_problems: rows of the store (N).
        config: the search.
        student: shape of a student whose circuits are searched jointly, if any; float32.
        teacher_dtype: of the teacher's parameters, computation and stored neurons.
        options: of the run.
        answer_tokens: tokens of an answer (A), each with logits.
    """

    teacher: LlamaConfig
    length: int
    num_problems: int
    config: DiscoveryConfig = DiscoveryConfig()
    student: LlamaConfig | None = None
    teacher_dtype: str = 'bfloat16'
    options: RunOptions = RunOptions()
    answer_tokens: int = 1

    def __post_init__(self):
        check_job(self)

    def with_batch(self, rows: int) -> 'DiscoveryJob':
        """Returns the discovery with batches of so many rows."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, batch_size=rows))

    @property
    def models(self) -> dict[str, tuple[LlamaConfig, str]]:
        """Shape and dtype of the teacher, and of the student if there is one."""
        models = {'teacher': (self.teacher, self.teacher_dtype)}
        return models if self.student is None else models | {'student': (self.student, 'float32')}

    @property
    def least_batch(self) -> int:
        """What the terms of the objective ask for, in each part of a batch."""
        return self.config.least_batch

    @property
    def stores(self) -> tuple[str, ...]:
        """What is stored of each problem and model: `logits`, `activations`."""
        # Of joint models the larger vocabulary decides; they have one.
        return self.config.stores(self.teacher, self.num_problems, self.answer_tokens)

    @property
    def store_bytes(self) -> int:
        """Host memory of float32 logits and of all neurons of each model, where they are read."""
        rows = 0
        for shape, dtype in self.models.values():
            sizes = {
                'logits': 4 * shape.vocab_size,
                'activations': shape.num_neurons * jnp.dtype(dtype).itemsize,
            }
            rows += sum(sizes[kind] for kind in self.stores)
        return self.num_problems * rows

    def rows_of_pass(self, fsdp: int) -> int:
        """Returns the rows of a batch of a pass, over all devices."""
        return rows_per_pass(self.num_problems, self.length, fsdp, self.options.tokens_per_pass)

    def works(self, fsdp: int, tensor: int) -> list[Work]:
        """Returns what one batch of each model's two passes does, and one step."""
        config, objective = self.config, self.config.objective
        passes, step = [], Work(0.0, 0.0, 0.0, 0.0)
        for shape, dtype in self.models.values():
            work = functools.partial(
                llama_work,
                shape,
                length=self.length,
                fsdp=fsdp,
                tensor=tensor,
                compute_bytes=jnp.dtype(dtype).itemsize,
            )
            rows = self.rows_of_pass(fsdp)
            passes += [
                work(rows=rows, logit_positions=logits, backward='none')
                for logits in (self.answer_tokens, 0)
            ]
            of_step = functools.partial(
                work,
                rows=config.batch_size,
                logit_positions=self.answer_tokens,
                microbatches=config.microbatches,
            )
            for _ in range(objective.passes):
                step += of_step(backward='activations', remat=config.remat)
            for _ in range(objective.forward_passes + config.asks_again(self.stores)):
                step += of_step(backward='none')
        return [*passes, step]

    def programs(self, mesh: Mesh) -> list[Program]:
        """Returns the passes that read each model's answers and its mean neurons, and the step.

        Raises:
            InputError: the rows of the batch do not divide over the mesh.
        """
        config = self.config
        name = 'discovery_batch_size'
        check_batch(config.batch_size, mesh, microbatches=config.microbatches, name=name)
        works = iter(self.works(mesh.shape[FSDP], mesh.shape[TENSOR]))
        models = {
            name: abstract_weights(shape, dtype, mesh)
            for name, (shape, dtype) in self.models.items()
        }
        size = (self.rows_of_pass(mesh.shape[FSDP]), self.length)
        layers = None if 'activations' in self.stores else ()
        top_k = None if 'logits' in self.stores else (1, 1.0)
        said = answer_rows('neurons', layers, None, top_k, answer_tokens=self.answer_tokens)
        passes = []
        for name, model in models.items():
            answers = jit_rows(said, mesh, several=True)
            means = jit_sum(site_activations('neurons'), mesh)
            passes += [
                frozen_pass(name, 'answers', answers, model, mesh, *size, next(works)),
                frozen_pass(name, 'means', means, model, mesh, *size, next(works)),
            ]
        return [*passes, self._step(mesh, models, next(works))]

    def _step(self, mesh: Mesh, models: Mapping[str, Llama], work: Work) -> Program:
        """The step of `discover`."""
        config, K = self.config, self.config.num_classes
        B, T, A = config.batch_size, self.length, self.answer_tokens
        positions = T if config.encoding.positions is None else len(config.encoding.positions)
        learned = K > 1
        width = positions * self.teacher.hidden_size if learned else None
        tx = make_discovery_optimizer(config)
        shapes = {name: model.config for name, model in models.items()}
        init = lambda key: make_params(key, shapes, width, config.objective, K)
        state = abstract_state(init, tx, mesh, RULES)
        row = lambda name, shape, dtype: {name: abstract_rows(mesh, name, shape, dtype)}
        stores = {}
        for name, c in shapes.items():
            kinds = {
                **row('logits', (B, c.vocab_size), jnp.float32),
                **row('activations', (B, c.num_neurons), jnp.dtype(self.models[name][1])),
            }
            stores[name] = {kind: kinds[kind] for kind in self.stores}
        batch = {
            **row('tokens', (B, T), jnp.int32),
            **row('lengths', (B,), jnp.int32),
            **row('answers', (B,) if A == 1 else (B, A), jnp.int32),
            **row('counterfactual_tokens', (B, T), jnp.int32),
            **(
                row('encoding', (B, width), jnp.float32)
                if learned
                else row('classes', (B,), jnp.int32)
            ),
            'stores': stores,
        }
        fills = {
            name: abstract_neurons(mesh, (c.num_layers, T, c.intermediate_size))
            for name, c in shapes.items()
        }
        frozen = {name: {'model': model, 'fill': fills[name]} for name, model in models.items()}
        kinds = {
            **models,
            'masks and classifier': state.params,
            'optimizer': state.opt_state,
            'batch from the store': (batch, fills),
            'step and key': (state.step, state.key),
        }
        step = jit_step(make_step(tx, config), state)
        return Program('discovery step', step, (state, batch, frozen), kinds, work)
