"""What the objectives have in common whose masks come from a `MaskGenerator`."""

from typing import Self

import jax
import numpy as np

from cdjax.circuits.masks import MaskGenerator
from cdjax.errors import InputError
from cdjax.models import LlamaConfig

# The target π of the masks, a share of all neurons, and the width of the generator.
DENSITY, HIDDEN = 0.15, 64


class Generated:
    """The part of an `Objective` that is its mask generator's.

    Attributes:
        key: as in `Objective`.
        hidden: width of the generator.
    """

    key: str
    hidden: int

    def least_rows(self, num_classes: int) -> int:
        """Returns two problems for each class, to be compared."""
        return 2 * num_classes

    def check(self, num_classes: int) -> None:
        """Raises InputError for a mask generator whose masks could not differ freely."""
        if self.hidden < num_classes:
            raise InputError(
                f'hidden={self.hidden} is below the {num_classes} classes, whose masks could then '
                f'not differ freely: choose at least {num_classes}'
            )

    def suited_to(self, num_classes: int) -> Self:
        """Returns it as it is."""
        return self

    def check_shape(self, shape: LlamaConfig, name: str) -> None:
        """Every model will do."""

    def init(
        self,
        key: jax.Array,
        shape: LlamaConfig,
        num_classes: int,
        first_scores: np.ndarray | None,
    ) -> MaskGenerator:
        """Returns the mask generator of a model, see `Objective.init`.

        Raises:
            InputError: scores to start near.
        """
        if first_scores is not None:
            raise InputError(
                f'the {self.key} objective cannot start from scores: its masks come from a '
                'generator; choose objective=any_size, or leave them out'
            )
        size = (shape.num_layers, shape.intermediate_size)
        return MaskGenerator(num_classes, *size, key, hidden=self.hidden)

    def draw_rows(self, key: jax.Array, rows: int, num_classes: int) -> dict[str, jax.Array]:
        """Returns nothing: no term draws for a problem."""
        return {}
