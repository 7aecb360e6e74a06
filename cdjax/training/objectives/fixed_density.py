"""The corrected objective at one density: soft gates that are asked for their mean."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.circuits.masks import MaskGenerator
from cdjax.errors import InputError
from cdjax.losses import (
    CausalDiscoveryWeights,
    causal_discovery_loss,
    hard_concrete_gate,
    hard_concrete_open,
)
from cdjax.models import LlamaConfig
from cdjax.training.objectives.generated import DENSITY, HIDDEN, Generated
from cdjax.training.objectives.objective import Subject, check_density, masks_of_rows

GATES = ('sigmoid', 'hard_concrete')


@dataclasses.dataclass(frozen=True)
class FixedDensity(Generated):
    """Masks of one density by the terms of `cdjax.losses.causal_discovery_loss`.

    Attributes:
        density: neurons of a circuit as a share of all (π).
        gate: 'sigmoid', or 'hard_concrete' (Louizos et al. 2018), whose samples are 0 and 1 with a
            probability of their own; the terms of the masks alone are then taken of the
            probabilities that gates are open.
        per_layer: ask for the density in each layer rather than over all.
        hidden: width of the mask generator.
        sparsity_from: part of the steps after which the sparsity term, which makes masks binary,
            is faded in.
        weights: of the terms.
    """

    density: float = DENSITY
    gate: str = 'sigmoid'
    per_layer: bool = False
    hidden: int = HIDDEN
    sparsity_from: float = 0.5
    weights: CausalDiscoveryWeights = dataclasses.field(default_factory=CausalDiscoveryWeights)
    key: str = dataclasses.field(default='causal', init=False)

    learning_rate: ClassVar[float] = 2e-2
    stores: ClassVar[tuple[str, ...]] = ('logits', 'activations')
    standardized: ClassVar[bool] = True
    forward_passes: ClassVar[int] = 0
    task: ClassVar[str] = 'faithfulness'
    single_answers: ClassVar[bool] = True

    def __post_init__(self):
        check_density(self.density)
        if self.gate not in GATES:
            raise InputError(f'gate={self.gate!r} is unknown; choose {" or ".join(GATES)}')
        if not 0 <= self.sparsity_from <= 1:
            raise InputError(f'sparsity_from={self.sparsity_from}: a part of the steps, 0 to 1')

    @property
    def passes(self) -> int:
        """Ablated models of a step, each forward and backward."""
        return 1 + bool(self.weights.completeness)

    def draw(self, key: jax.Array, shape: LlamaConfig, num_classes: int) -> dict[str, jax.Array]:
        """Returns the `noise` `[K, L, F]` of hard-concrete gates."""
        if self.gate == 'sigmoid':
            return {}
        size = (num_classes, shape.num_layers, shape.intermediate_size)
        return {'noise': jax.random.logistic(key, size)}

    def loss(
        self,
        params: MaskGenerator,
        subject: Subject,
        draws: Mapping[str, jax.Array],
        progress: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See `Objective`."""
        logits_KxLxF, z_BxK = params(), subject.assignments
        if self.gate == 'sigmoid':
            gates_KxLxF = masks_KxLxF = jax.nn.sigmoid(logits_KxLxF)
        else:
            gates_KxLxF = hard_concrete_gate(logits_KxLxF, draws['noise'])
            masks_KxLxF = hard_concrete_open(logits_KxLxF)
        gates_BxLxF = masks_of_rows(z_BxK, gates_KxLxF)
        without = subject.ablated_logits(1 - gates_BxLxF) if self.weights.completeness else None
        return causal_discovery_loss(
            subject.store['activations'],
            z_BxK if subject.probabilities is None else subject.probabilities,
            z_BxK,
            masks_KxLxF,
            full_logits=subject.full_logits(),
            circuit_logits=subject.ablated_logits(gates_BxLxF),
            complement_logits=without,
            weights=self.weights_at(progress),
            target=self.density,
            per_layer=self.per_layer,
            standardized=True,
        )

    def weights_at(self, progress: jax.Array | float) -> CausalDiscoveryWeights:
        """Returns the weights after a part of all steps; sparsity is faded in over the last."""
        rest = max(1 - self.sparsity_from, 1e-6)
        faded = jnp.clip((progress - self.sparsity_from) / rest, 0.0, 1.0)
        return dataclasses.replace(self.weights, sparsity=self.weights.sparsity * faded)

    def final_weights(self, learned: bool) -> dict[str, float]:
        """See `Objective`."""
        weights = dict(vars(self.weights))
        if not learned:
            weights['usage'] = 0.0
        if not weights['completeness']:
            weights.pop('completeness')
        return weights

    def scores(self, params: MaskGenerator) -> jax.Array:
        """Returns the gates, or the probabilities that they are open, `[K, L, F]`."""
        return jax.nn.sigmoid(params()) if self.gate == 'sigmoid' else hard_concrete_open(params())

    def ranking(self, scores: np.ndarray) -> np.ndarray:
        """Returns the scores as they are."""
        return scores
