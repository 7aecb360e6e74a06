"""How circuits are evaluated, and on which problems."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from cdjax.circuits.ablation import ABLATIONS
from cdjax.circuits.methods import LEARNED, METHODS
from cdjax.data import Split
from cdjax.errors import InputError
from cdjax.evaluation.faithfulness import SIZES
from cdjax.studies.methods import methods_by_default

# Problems of unseen forms that circuits are measured on, at most.
EVALUATED = 1000
# Shares of the neurons at which ways to find circuits are told apart: a larger circuit may hold all
# of a small model that is alive.
TELLING_SIZES = (0.02, 0.03, 0.05, 0.08, 0.1)


@dataclasses.dataclass(frozen=True)
class CircuitStudyConfig:
    """How circuits are evaluated.

    Attributes:
        sizes: sizes of the circuits as shares of all neurons; their own size is measured too.
        areas: whether MIB's nominal sizes (`cdjax.evaluation.faithfulness.SIZES`) are measured
            beside these, and CPR and CMD taken over them.
        methods: keys of `cdjax.circuits.methods.METHODS`, what the circuits are held against; if
            None, all that are run by default. The circuits studied are `learned`, and always there.
        max_problems: problems of unseen forms that are evaluated, at most.
        ablations: what the neurons outside a circuit become, see `cdjax.circuits.ablation`. Under
            the first one neurons are scored and everything is measured, under the others what
            depends on it.
        seed: of methods that draw, and of the choice of problems.
    """

    sizes: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2)
    areas: bool = True
    methods: tuple[str, ...] | None = None
    max_problems: int = EVALUATED
    ablations: tuple[str, ...] = ('mean',)
    seed: int = 0

    def __post_init__(self):
        methods = methods_by_default() if self.methods is None else self.methods
        known = [METHODS[key].key for key in methods]  # an unknown one is refused
        object.__setattr__(self, 'methods', tuple(dict.fromkeys([LEARNED.key, *known])))
        if not self.sizes or not all(0 < size <= 1 for size in self.sizes):
            raise InputError(
                f'sizes={",".join(map(str, self.sizes))}: name shares of the neurons, above 0 and '
                'at most 1'
            )
        if len(set(self.sizes)) < len(self.sizes):
            raise InputError(f'sizes={",".join(map(str, self.sizes))}: name each of them once')
        unknown = [ablation for ablation in self.ablations if ablation not in ABLATIONS]
        if unknown or not self.ablations or len(set(self.ablations)) < len(self.ablations):
            raise InputError(
                f'ablation={",".join(self.ablations)}: name one or more of {", ".join(ABLATIONS)}, '
                'each of them once'
            )
        if self.max_problems < 1:
            raise InputError(f'evaluate_problems={self.max_problems}: at least 1 is needed')

    @property
    def ablation(self) -> str:
        """The one under which neurons are scored."""
        return self.ablations[0]

    def check_sizes(self, neurons: int) -> None:
        """Raises InputError where a size is nearer to none of a model's neurons than to one."""
        small = next((size for size in self.sizes if round(size * neurons) < 1), None)
        if small is not None:
            raise InputError(
                f'sizes={small} of {neurons:,} neurons is less than one: choose at least '
                f'{1 / neurons:.2g}'
            )

    def measured(self, neurons: int, size: int) -> list[int]:
        """Returns the sizes of curves, in neurons and ascending.

        Args:
            neurons: of the model.
            size: of the circuits.
        """
        shares = self.sizes + (SIZES if self.areas else ())
        return sorted({size, *sizes_in_neurons(shares, neurons)})


def sizes_in_neurons(shares: Iterable[float], neurons: int) -> list[int]:
    """Returns shares as numbers of neurons, at least one of them each."""
    return [max(round(share * neurons), 1) for share in shares]


def unseen_rows(split: Split, config: CircuitStudyConfig) -> np.ndarray:
    """Returns the problems of unseen forms that are evaluated, at most `max_problems`."""
    return _some(split.test, config)


def learned_rows(split: Split, config: CircuitStudyConfig) -> np.ndarray:
    """Returns as many of the problems that were learned from, at most `max_problems`."""
    return _some(split.train, config)


def _some(rows: np.ndarray, config: CircuitStudyConfig) -> np.ndarray:
    order = np.random.default_rng(config.seed).permutation(rows)
    return np.sort(order[: config.max_problems])
