"""The programs of a discovery as shapes: what `cdjax.planning.plan` compiles.

They are those of the run itself: each model's pass, which stores what the objective reads of its
logits and neurons, and the step that goes forward through the ablated models and back to the masks.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax.numpy as jnp
from jax.sharding import Mesh

from cdjax.models.config import LlamaConfig
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
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.discovery_step import (
    RULES,
    make_discovery_optimizer,
    make_params,
    make_step,
)
from cdjax.training.objectives import AnySize, Objective, objective_from_dict
from cdjax.training.step import jit_step


@dataclasses.dataclass(frozen=True)
class DiscoveryShapes:
    """All that decides how much memory and time a discovery takes; see `JobShapes`.

    Attributes:
        teacher: shape of the teacher.
        batch_size: rows of a training step, over all devices (B).
        length: positions of a row (T).
        num_problems: rows of the store (N).
        student: shape of a student whose circuits are searched jointly, if any; float32.
        microbatches: parts of a batch that are computed one after the other.
        num_classes: latent classes (K).
        objective: what masks are trained for.
        recompute_logits: whether a step asks the whole model again, see `DiscoveryConfig`.
        encode_positions: positions that the classifier reads; all if None.
        teacher_batch_size: rows of a pass that fills the store.
        teacher_dtype: of the teacher's parameters, computation and stored neurons.
        remat: key of `REMAT_POLICIES`, of the step.
    """

    teacher: LlamaConfig
    batch_size: int
    length: int
    num_problems: int
    student: LlamaConfig | None = None
    microbatches: int = 1
    num_classes: int = 4
    objective: Objective = dataclasses.field(default_factory=AnySize)
    recompute_logits: bool = False
    encode_positions: int | None = None
    teacher_batch_size: int = 512
    teacher_dtype: str = 'bfloat16'
    remat: str = 'none'

    builder: ClassVar[str] = 'cdjax.planning.discovery:discovery_programs'

    def __post_init__(self):
        check_shapes(self)
        self.config()  # raises for a batch that is too small, or does not divide

    @property
    def models(self) -> dict[str, tuple[LlamaConfig, str]]:
        """Shape and dtype of the teacher, and of the student if there is one."""
        models = {'teacher': (self.teacher, self.teacher_dtype)}
        return models if self.student is None else models | {'student': (self.student, 'float32')}

    @property
    def least_batch(self) -> int:
        """What the terms of the objective ask for, in each part of a batch."""
        return self.config().least_batch

    @property
    def stores(self) -> tuple[str, ...]:
        """What is stored of each problem and model: `logits`, `activations`."""
        left_out = 'logits' if self.recompute_logits else None
        return tuple(kind for kind in self.objective.stores if kind != left_out)

    @property
    def store_bytes(self) -> int:
        """Host memory of float32 logits and of all neurons of each model, where they are read."""
        rows = 0
        for config, dtype in self.models.values():
            sizes = {
                'logits': 4 * config.vocab_size,
                'activations': config.num_neurons * jnp.dtype(dtype).itemsize,
            }
            rows += sum(sizes[kind] for kind in self.stores)
        return self.num_problems * rows

    def config(self) -> DiscoveryConfig:
        """Returns the discovery of these shapes."""
        return DiscoveryConfig(
            num_classes=self.num_classes,
            objective=self.objective,
            batch_size=self.batch_size,
            microbatches=self.microbatches,
            remat=self.remat,
            recompute_logits=self.recompute_logits,
        )

    def works(self, fsdp: int, tensor: int) -> list[Work]:
        """Returns what one batch of each model's pass does, and one step."""
        on_mesh = {'fsdp': fsdp, 'tensor': tensor}
        passes, step = [], Work(0.0, 0.0, 0.0, 0.0)
        for config, dtype in self.models.values():
            itemsize = jnp.dtype(dtype).itemsize
            passes.append(
                llama_work(
                    *(config, self.teacher_batch_size, self.length, 1),
                    **on_mesh,
                    backward='none',
                    compute_bytes=itemsize,
                )
            )
            of_step = functools.partial(
                llama_work,
                *(config, self.batch_size, self.length, 1),
                **on_mesh,
                compute_bytes=itemsize,
                microbatches=self.microbatches,
            )
            for _ in range(self.objective.passes):
                step += of_step(backward='activations', remat=self.remat)
            for _ in range(self.objective.forward_passes + self.recompute_logits):
                step += of_step(backward='none')
        return [*passes, step]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> 'DiscoveryShapes':
        """Returns the shapes that `dataclasses.asdict` has taken apart."""
        parts = {name: config_from_dict(fields[name]) for name in ('student', 'teacher')}
        parts['objective'] = objective_from_dict(fields['objective'])
        return cls(**{**fields, **parts})


def discovery_programs(mesh: Mesh, recipe: dict[str, Any]) -> list[Program]:
    """Returns each model's pass and the step; a `Builder` of `cdjax.planning.compiling`.

    Args:
        mesh: the mesh.
        recipe: `dataclasses.asdict` of a `DiscoveryShapes`.

    Raises:
        InputError: the rows of the batch do not divide over the mesh.
    """
    shapes = DiscoveryShapes.from_dict(recipe)
    name = 'discovery_batch_size'
    check_batch(shapes.batch_size, mesh, microbatches=shapes.microbatches, name=name)
    *of_passes, of_step = shapes.works(mesh.shape[FSDP], mesh.shape[TENSOR])
    models = {
        name: abstract_weights(config, dtype, mesh)
        for name, (config, dtype) in shapes.models.items()
    }
    passes = [
        activations_pass(
            name,
            model,
            mesh,
            batch_size=min(shapes.teacher_batch_size, shapes.num_problems),
            length=shapes.length,
            layers=None if 'activations' in shapes.stores else (),
            top_k=None if 'logits' in shapes.stores else (1, 1.0),
            work=work,
        )
        for (name, model), work in zip(models.items(), of_passes, strict=True)
    ]
    return [*passes, _step(mesh, shapes, models, of_step)]


def _step(mesh: Mesh, shapes: DiscoveryShapes, models, work: Work) -> Program:
    """The step of `discover`."""
    B, T, config = shapes.batch_size, shapes.length, shapes.config()
    positions = T if shapes.encode_positions is None else shapes.encode_positions
    learned = shapes.num_classes > 1
    width = positions * shapes.teacher.hidden_size if learned else None
    tx = make_discovery_optimizer(config)
    configs = {name: model.config for name, model in models.items()}
    init = lambda key: make_params(key, configs, width, shapes.objective, shapes.num_classes)
    state = abstract_state(init, tx, mesh, RULES)
    row = lambda name, shape, dtype: {name: abstract_rows(mesh, name, shape, dtype)}
    stores = {}
    for name, c in configs.items():
        kinds = {
            **row('logits', (B, c.vocab_size), jnp.float32),
            **row('activations', (B, c.num_neurons), jnp.dtype(shapes.models[name][1])),
        }
        stores[name] = {kind: kinds[kind] for kind in shapes.stores}
    batch = {
        **row('tokens', (B, T), jnp.int32),
        **row('lengths', (B,), jnp.int32),
        **row('counterfactual_tokens', (B, T), jnp.int32),
        **(
            row('encoding', (B, width), jnp.float32) if learned else row('classes', (B,), jnp.int32)
        ),
        'stores': stores,
    }
    fills = {
        name: abstract_neurons(mesh, (c.num_layers, T, c.intermediate_size))
        for name, c in configs.items()
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
