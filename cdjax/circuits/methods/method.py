"""What a way to score neurons is, and what it is given."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.classes import CLASSES, LEARNED, ONE, Sorting
from cdjax.data import Dataset
from cdjax.models import Llama
from cdjax.models.config import LlamaConfig
from cdjax.run.options import RunOptions
from cdjax.training.discovery import DiscoveryConfig

Result = TypeVar('Result')

# Of a curve; the names that drawing programs give them.
LINES = ('solid', 'dashed', 'dotted', 'dashdot')


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What some methods need beside model, problems and classes.

    Attributes:
        fill: float32 `[L, T, U]`, the mean activations that ablation puts in place of a unit's.
        ablation: what ablated units become, one of `cdjax.circuits.ablation.ABLATIONS`.
        learned: float32 `[K, L, U]`, scores of the circuits that are studied.
        discovery: how masks are learned; None where nothing is going to be trained.
        seed: of methods that draw.
        site: whose units are scored.
        mesh: the mesh; one device if None.
        workdir: trainings keep their checkpoints and metrics in it; None to keep nothing.
        options: of trainings, and of passes over the data.
        cache: what `once` has computed.
    """

    fill: np.ndarray
    ablation: str = 'mean'
    learned: np.ndarray | None = None
    discovery: DiscoveryConfig | None = None
    seed: int = 0
    site: str = 'neurons'
    mesh: Mesh | None = None
    workdir: epath.Path | None = None
    options: RunOptions = RunOptions()
    cache: dict[Hashable, Any] = dataclasses.field(default_factory=dict)

    @property
    def passes(self) -> dict[str, Any]:
        """Keyword arguments of every pass of a model over a data set."""
        return {'mesh': self.mesh, 'tokens_per_pass': self.options.tokens_per_pass}

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """Returns what has been computed under a key, computed now where nothing has.

        Several methods share a pass over the data so. The context belongs to one model, one data
        set and the rows learned from; what else the result depends on belongs into the key.
        """
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What a method is going to be asked for, told before a model is loaded.

    Attributes:
        num_classes: classes that it will get, K.
        dataset: the problems.
        shape: of the model.
        discovery: how masks are learned; None where nothing is going to be trained.
    """

    num_classes: int
    dataset: Dataset
    shape: LlamaConfig
    discovery: DiscoveryConfig | None


class Scores(Protocol):
    """Scores the units of a site, the highest for those that belong into a circuit."""

    def __call__(
        self,
        model: Llama,
        dataset: Dataset,
        rows: np.ndarray,
        classes: np.ndarray,
        *,
        context: Context,
    ) -> np.ndarray:
        """Returns float32 `[K, L, U]`, K = `classes.max() + 1`.

        Args:
            model: the model.
            dataset: N problems.
            rows: int, the problems to learn from; of the others nothing may be read.
            classes: int `[N]`.
            context: what some methods need beside these.
        """


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to choose the neurons of each class's circuit: it scores them, or draws masks.

    Attributes:
        key: what flags, results and folders know it by.
        title: its name in tables and figures.
        phrase: its name within a sentence.
        colour: of its curve: a name of `cdjax.colours.PALETTE`, or `#rrggbb`.
        scores: see `Scores`; the circuit of n neurons are the n highest. None if it draws.
        draw: `(masks [K, L, U], seed=int, living=bool [L, U]) -> bool [K, L, U]` draws masks that
            have with the circuits of a size that are studied in common what the method holds
            equal; `living` are the units that vary over the data. None if it scores.
        draws: how many are drawn.
        classes: key of the `ClassScheme` it goes by.
        check: raises InputError for what `scores` would refuse.
        trains: whether its scores come from a training; only a study that has a discovery to
            hold it against runs it then.
        by_default: whether a study that names no methods runs it.
        line: of its curve, one of `LINES`: there are more methods than colours.
    """

    key: str
    title: str
    phrase: str
    colour: str
    scores: Scores | None = None
    draw: Callable[..., np.ndarray] | None = None
    draws: int = 1
    classes: str = LEARNED.key
    check: Callable[[Request], None] | None = None
    trains: bool = False
    by_default: bool = True
    line: str = 'solid'

    def __post_init__(self):
        if self.line not in LINES:
            raise ValueError(f'line={self.line!r}: choose from {", ".join(LINES)}')
        if (self.scores is None) == (self.draw is None):
            raise ValueError(f'the method {self.key!r} needs either scores or draw')

    def sort(self, sorting: Sorting) -> np.ndarray | None:
        """Returns the classes that it goes by, int `[N]`; None where the problems have none.

        A method that trains has none either where all problems are of one class: its masks would be
        those of one mask for all, trained once more.
        """
        classes = CLASSES[self.classes].assign(sorting)
        if classes is None or not self.trains or self.classes == ONE.key:
            return classes
        return classes if classes.any() else None
