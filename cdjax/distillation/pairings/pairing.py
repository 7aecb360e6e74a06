"""What a pairing of layers is, and what it is given."""

import dataclasses
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.distillation.pairs import LayerPairs
from cdjax.models import Llama, LlamaConfig
from cdjax.run.options import TOKENS_PER_PASS


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What some pairings need beside models and problems.

    Attributes:
        site: whose activations are going to be compared.
        positions: of the prompt; None for the answer position.
        most: pairs at most, those of the student's layers that matter most; all if None. Only
            pairings that weigh layers read it.
        seed: of pairings that draw.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
    """

    site: str = 'neurons'
    positions: tuple[int, ...] | None = None
    most: int | None = None
    seed: int = 0
    mesh: Mesh | None = None
    tokens_per_pass: int = TOKENS_PER_PASS

    @property
    def passes(self) -> dict[str, Any]:
        """Keyword arguments of every pass of a model over a data set."""
        return {'mesh': self.mesh, 'tokens_per_pass': self.tokens_per_pass}


class PairLayers(Protocol):
    """Says which layer of the student is compared with which of the teacher."""

    def __call__(
        self,
        student: Llama | LlamaConfig,
        teacher: Llama | LlamaConfig,
        dataset: Dataset | None,
        rows: np.ndarray | None,
        *,
        context: Context,
    ) -> LayerPairs:
        """Returns `((student layer, teacher layer), ...)`, or pairs of single heads.

        Args:
            student: the model; its shape for a pairing that reads no models.
            teacher: likewise.
            dataset: N problems; None, like the rows, for a pairing that reads no models.
            rows: int, the problems to learn from; of the others nothing may be read.
            context: what some pairings need beside these.
        """


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A way to pair layers.

    Attributes:
        key: what flags, results and folders know it by.
        title: what it does, for messages and pages.
        pair: see `PairLayers`.
        reads_models: whether it reads weights and problems, and so needs a student that has been
            trained; shapes are enough for it if not.
        of_heads: whether single heads are paired, so that the site has to be one of heads.
    """

    key: str
    title: str
    pair: PairLayers
    reads_models: bool = False
    of_heads: bool = False


def shape_of(model: Llama | LlamaConfig) -> LlamaConfig:
    """Returns the shape of a model, or of a shape."""
    return model if isinstance(model, LlamaConfig) else model.config
