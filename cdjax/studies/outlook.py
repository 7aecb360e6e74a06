"""What a run is going to do, told before its folder is claimed and before a model is loaded."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from cdjax.models import LlamaConfig
from cdjax.models.parameters import abstract_model
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.memory import device_memory, least_discovery_bytes, least_training_bytes

# Weights, gradient and the two moments of Adam, in float32.
_TRAINED_BYTES = 4 * 4


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: what it does.
        steps: of its training; 0 where nothing is trained, None where searches of its own are.
        reached: steps of its newest checkpoint.
        done: whether its results are kept.
        memory: bytes that its training takes on all devices together, at least; 0 if not known.
    """

    name: str
    steps: int | None = 0
    reached: int = 0
    done: bool = False
    memory: int = 0

    @property
    def left(self) -> int:
        """Steps that are still to be made."""
        return 0 if self.done else (self.steps or 0) - self.reached


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What a run is going to do.

    Attributes:
        name: the launcher, part of what identifies the run.
        workdir: its folder.
        facts: what its config.json holds, no value left open.
        stages: in their order.
        mesh: what it runs on.
    """

    name: str
    workdir: epath.Path
    facts: Mapping[str, Any]
    stages: tuple[Stage, ...]
    mesh: Mesh

    @property
    def trainings(self) -> int:
        """How many of the stages train something, of a known number of steps."""
        return sum(bool(stage.steps) for stage in self.stages)

    @property
    def searching(self) -> int:
        """How many of the stages have searches of their own, which are not counted."""
        return sum(stage.steps is None for stage in self.stages)

    @property
    def steps(self) -> int:
        """Steps of all trainings whose number of steps is known."""
        return sum(stage.steps or 0 for stage in self.stages)

    @property
    def left(self) -> int:
        """Those of them that are still to be made."""
        return sum(stage.left for stage in self.stages)

    @property
    def done(self) -> int:
        """How many stages are done."""
        return sum(stage.done for stage in self.stages)

    @property
    def memory(self) -> int:
        """Bytes of the largest training, at least."""
        return max((stage.memory for stage in self.stages), default=0)

    @property
    def memory_there(self) -> int:
        """Bytes that programs may use on all devices."""
        return device_memory(self.mesh)


# What a study calls with its outlook, before anything is claimed or loaded; it may raise.
Announce = Callable[[Outlook], None]


def no_announcement(outlook: Outlook) -> None:
    """Says nothing of what is going to be done."""


def training_stage(
    name: str, steps: int, training: epath.Path, *results: epath.Path, memory: int = 0
) -> Stage:
    """Returns the stage of a training, as far as its folder tells how far it is.

    Args:
        name: what it does.
        steps: of the training.
        training: its folder, that of its checkpoints.
        *results: what is there when the stage is done; its last checkpoint where none are named.
        memory: see `Stage`.
    """
    reached = min(_newest(training / 'checkpoints'), steps)
    done = all(path.exists() for path in results) if results else reached == steps
    return Stage(name, steps, reached, done, memory)


def passes_stage(name: str, result: epath.Path, *, steps: int | None = 0) -> Stage:
    """Returns a stage without a training folder of its own, done when its result is there."""
    return Stage(name, steps, done=result.exists())


def _newest(checkpoints: epath.Path) -> int:
    """Returns the step of the newest whole checkpoint of a folder, 0 where there is none."""
    if not checkpoints.exists():
        return 0
    return max((int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()), default=0)


def model_bytes(config: LlamaConfig, dtype: str = 'float32') -> int:
    """Returns the bytes of the weights of a model."""
    model = abstract_model(config, jnp.dtype(dtype))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(model))


def training_bytes(
    config: LlamaConfig,
    training: Any,
    length: int,
    answer_tokens: int = 1,
    *,
    patched: bool = False,
) -> int:
    """Returns what a training of a model takes at least: its state, and what a step keeps.

    Args:
        config: the model.
        training: a `DistillationConfig` or a `LanguageModelConfig`.
        length: positions of a row (T).
        answer_tokens: tokens of an answer (A).
        patched: see `least_training_bytes`.
    """
    state = _TRAINED_BYTES * model_bytes(config) // 4
    rows = training.batch_size // training.microbatches
    kept = least_training_bytes(
        config,
        rows,
        length,
        remat=training.remat,
        dtype=training.compute_dtype,
        answer_tokens=answer_tokens,
        patched=patched,
    )
    return state + kept


def discovery_bytes(
    shapes: Mapping[str, tuple[LlamaConfig, str]], config: DiscoveryConfig, length: int
) -> int:
    """Returns what a search takes at least: frozen models, scores, and what a step keeps.

    Args:
        shapes: name → shape and dtype of the weights of each model.
        config: the search.
        length: positions of a row (T).
    """
    rows = config.batch_size // config.microbatches
    ablated = bool(config.objective.passes)
    kept = max(
        least_discovery_bytes(shape, rows, length, ablated=ablated, remat=config.remat)
        for shape, _ in shapes.values()
    )
    scores = sum(config.num_classes * shape.num_neurons for shape, _ in shapes.values())
    models = sum(model_bytes(*shape) for shape in shapes.values())
    return models + _TRAINED_BYTES * scores + kept
