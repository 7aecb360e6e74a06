"""What the objectives have in common whose masks come from a `MaskGenerator`."""

import jax
import numpy as np

from cdjax.circuits.masks import MaskGenerator
from cdjax.errors import InputError
from cdjax.models import LlamaConfig

# The target π of the masks, a share of all neurons, and the width of the generator.
DENSITY, HIDDEN = 0.15, 64


def check_hidden(hidden: int, num_classes: int) -> None:
    """Raises InputError for a mask generator whose masks could not differ freely."""
    if hidden < num_classes:
        raise InputError(
            f'hidden={hidden} is below the {num_classes} classes, whose masks could then not '
            f'differ freely: choose at least {num_classes}'
        )


def make_generator(
    objective,
    key: jax.Array,
    shape: LlamaConfig,
    num_classes: int,
    first_scores: np.ndarray | None,
) -> MaskGenerator:
    """Returns the mask generator of a model, see `Objective.init`.

    Args:
        objective: whose masks; its `key` is for the message, and `hidden` the width.
        key: as there, like the rest.
        shape: as there.
        num_classes: as there.
        first_scores: as there.

    Raises:
        InputError: scores to start near.
    """
    if first_scores is not None:
        raise InputError(
            f'the {objective.key} objective cannot start from scores: its masks come from a '
            'generator; choose objective=any_size, or leave them out'
        )
    size = (shape.num_layers, shape.intermediate_size)
    return MaskGenerator(num_classes, *size, key, hidden=objective.hidden)
