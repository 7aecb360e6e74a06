"""Weights of an alignment to choose from, for each arm its own."""

import dataclasses
from collections.abc import Sequence

from cdjax.errors import InputError, check_finite, check_seed

SEEDS = (1000, 1001, 1002)


@dataclasses.dataclass(frozen=True)
class WeightGrid:
    """Which weights are tried, and with which seeds.

    Attributes:
        weights: λ of the alignment, all that there are to choose from.
        seeds: of the students that are distilled with each of them; the table has others.
    """

    weights: tuple[float, ...]
    seeds: tuple[int, ...] = SEEDS

    def __post_init__(self):
        for weight in self.weights:
            check_finite(weight_grid=weight)
            if not weight > 0:
                raise InputError(f'weight_grid={weight:g}: weights of an alignment are above 0')
        if len(self.weights) < 2 or len(set(self.weights)) < len(self.weights):
            raise InputError(f'{self}: name two weights or more, and each of them once')
        for seed in self.seeds:
            check_seed(weight_seeds=seed)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            listed = ','.join(map(str, self.seeds))
            raise InputError(f'weight_seeds={listed}: name at least one, and each of them once')

    def __str__(self) -> str:
        return f'weight_grid={",".join(f"{weight:g}" for weight in self.weights)}'

    def check(self, own: float, seeds: Sequence[int]) -> None:
        """Raises InputError for a grid that cannot stand beside the rest of a table.

        Args:
            own: the weight that stays where no other is better.
            seeds: of the table.
        """
        if own not in self.weights:
            raise InputError(
                f'{self} lacks weight={own:g}, which stays where no other is better: add it, or '
                'set weight to one of them'
            )
        both = [seed for seed in self.seeds if seed in seeds]
        if both:
            raise InputError(
                f'weight_seeds={both[0]} is one of seeds={",".join(map(str, seeds))}, whose '
                'students are evaluated, and a weight would be chosen by them: name others'
            )

    def in_turn(self, own: float) -> tuple[float, ...]:
        """Returns the weights, with the one that stays where no other is better in front."""
        return own, *(weight for weight in self.weights if weight != own)
