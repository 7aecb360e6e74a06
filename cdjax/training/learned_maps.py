"""What the steps of an alignment hand to each other: maps that are learned, or past problems."""

import dataclasses
from typing import Any

import jax
import optax

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.similarities import LINEAR_MAP
from cdjax.losses import RowMemory, init_projection
from cdjax.training.distillation_config import FROM_NOTHING, DistillationConfig
from cdjax.training.optimizer import make_optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedMaps:
    """The maps of an alignment by 'linear_map': trained beside the student, kept in its state.

    Attributes:
        maps: `[P, Q]` float32 of each pair.
        opt_state: of their optimizer.
    """

    maps: tuple[jax.Array, ...]
    opt_state: Any


def first_memory(
    alignment: Alignment, config: DistillationConfig, student_width: int, teacher_width: int
) -> tuple[RowMemory, ...] | LearnedMaps:
    """Returns what the steps of an alignment hand to each other, at the start.

    Args:
        alignment: what is compared.
        config: the distillation, of an optimizer that leaves nothing open.
        student_width: numbers of a problem in a layer, the product of `Alignment.compared_shape`.
        teacher_width: likewise.
    """
    if alignment.similarity != LINEAR_MAP.key:
        return alignment.empty_memories(student_width, teacher_width)
    keys = jax.random.split(jax.random.key(config.seed), len(alignment.pairs))
    maps = tuple(init_projection(key, student_width, teacher_width) for key in keys)
    return LearnedMaps(maps, optimizer_of_maps(config).init(maps))


def optimizer_of_maps(config: DistillationConfig) -> optax.GradientTransformation:
    """Returns that of maps, which start from nothing wherever the student does."""
    rate = max(config.optimizer.learning_rate, FROM_NOTHING.learning_rate)
    return make_optimizer(
        dataclasses.replace(config.optimizer, learning_rate=rate, weight_decay=0.0)
    )
