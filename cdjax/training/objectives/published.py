"""The objective of the text, its five terms to the letter."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np

from cdjax.circuits.masks import MaskGenerator
from cdjax.losses import DiscoveryWeights, discovery_loss
from cdjax.models import LlamaConfig
from cdjax.training.objectives.generated import DENSITY, HIDDEN, Generated
from cdjax.training.objectives.objective import Subject, check_density


@dataclasses.dataclass(frozen=True)
class Published(Generated):
    """Sigmoid masks by the terms of `cdjax.losses.discovery_loss`; no model is ablated.

    Attributes:
        density: the target π of the text, and the size of the circuits.
        cosine: take similarity and overlap in their cosine forms, as the authors' weights expect.
        hidden: width of the mask generator.
        weights: of the terms.
    """

    density: float = DENSITY
    cosine: bool = False
    hidden: int = HIDDEN
    weights: DiscoveryWeights = dataclasses.field(default_factory=DiscoveryWeights.unit)
    key: str = dataclasses.field(default='published', init=False)

    learning_rate: ClassVar[float] = 2e-2
    stores: ClassVar[tuple[str, ...]] = ('activations',)
    standardized: ClassVar[bool] = False
    forward_passes: ClassVar[int] = 0
    task: ClassVar[str] = 'similarity'
    single_answers: ClassVar[bool] = False
    passes: ClassVar[int] = 0

    def __post_init__(self):
        check_density(self.density)

    def draw(self, key: jax.Array, shape: LlamaConfig, num_classes: int) -> dict[str, jax.Array]:
        """Returns nothing: no gate is noisy."""
        return {}

    def loss(
        self,
        params: MaskGenerator,
        subject: Subject,
        draws: Mapping[str, jax.Array],
        progress: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See `Objective`."""
        masks_KxLxF = self.scores(params)
        return discovery_loss(
            subject.store['activations'],
            subject.assignments,
            masks_KxLxF,
            weights=self.weights,
            target=self.density,
            normalize=self.cosine,
        )

    def final_weights(self, learned: bool) -> dict[str, float]:
        """See `Objective`."""
        return dict(vars(self.weights)) | ({} if learned else {'usage': 0.0})

    def scores(self, params: MaskGenerator) -> jax.Array:
        """Returns the masks, `[K, L, F]`."""
        return jax.nn.sigmoid(params())

    def ranking(self, scores: np.ndarray) -> np.ndarray:
        """Returns the scores as they are."""
        return scores
