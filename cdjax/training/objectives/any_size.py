"""Masks that are trained at every size: the ranking of neurons is a circuit wherever it is cut."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.circuits.masks import nested_scores, specific_size
from cdjax.errors import InputError, check_finite
from cdjax.losses import (
    AnySizeWeights,
    any_size_loss,
    log_uniform_sizes,
    membership_scores,
    top_k_gate,
)
from cdjax.models import LlamaConfig
from cdjax.training.objectives.objective import Subject, check_density, masks_of_rows

LEARNED_PART = 'learned'  # how much of a circuit is its class's own


@dataclasses.dataclass(frozen=True)
class AnySize:
    """Nested masks by exact top-k gates, of several sizes at each step.

    A class has one score for each neuron. At each step `sizes` sizes are drawn, log-uniformly; for
    each of them the neurons with the highest scores, noise added, are the circuit (backward: the
    soft top-k, see `cdjax.losses.top_k_gate`), and the problems of a batch take the sizes in turn.
    The loss is `cdjax.losses.any_size_loss`.

    Attributes:
        density: neurons of the circuits of the artefact, as a share of all; every other size is
            one call of `Circuit.at_size` away.
        smallest: smallest size that is trained, as a share of all neurons.
        largest: largest size that is trained.
        sizes: sizes of a step (G).
        temperature: T of the soft top-k.
        noise: scale of the logistic noise on scores, in temperatures.
        counterfactual: part of the problems whose ablated neurons become what they are on the
            counterfactual prompt, and not their mean. One more forward pass, where above 0.
        specific: part of each circuit that is its class's own; the rest is a core that all classes
            share, so that taking out the specific part need not hurt the other classes.
            `LEARNED_PART`: each neuron has a softmax over none, shared and the classes, which
            decides how much of a circuit is its own. None: each class chooses all of its neurons.
        weights: of the terms. Completeness and selectivity are asked of the specific part, where
            there is one.
    """

    density: float = 0.05
    smallest: float = 0.01
    largest: float = 0.5
    sizes: int = 8
    temperature: float = 0.25
    noise: float = 1.0
    counterfactual: float = 0.0
    specific: float | str | None = None
    weights: AnySizeWeights = dataclasses.field(default_factory=AnySizeWeights)
    key: str = dataclasses.field(default='any_size', init=False)

    learning_rate: ClassVar[float] = 0.1
    stores: ClassVar[tuple[str, ...]] = ('logits',)
    standardized: ClassVar[bool] = False
    task: ClassVar[str] = 'faithfulness'
    single_answers: ClassVar[bool] = False

    def __post_init__(self):
        check_density(self.density)
        check_finite(temperature=self.temperature, noise=self.noise)
        if not 0 < self.smallest <= self.largest < 1:
            raise InputError(
                f'smallest={self.smallest}, largest={self.largest}: shares of the neurons, above 0 '
                'and below 1, the smaller one first'
            )
        if self.sizes < 1:
            raise InputError(f'sizes={self.sizes}: at least 1 size a step is needed')
        if not self.temperature > 0 or self.noise < 0:
            raise InputError(
                f'temperature={self.temperature} must be above 0, and noise={self.noise} not below'
            )
        if not 0 <= self.counterfactual <= 1:
            raise InputError(f'counterfactual={self.counterfactual}: a part of the rows, 0 to 1')
        chosen = self.specific not in (None, LEARNED_PART)
        if chosen and not (isinstance(self.specific, float) and 0 < self.specific < 1):
            raise InputError(
                f'specific={self.specific}: a part of each circuit, above 0 and below 1, or '
                f'{LEARNED_PART}'
            )

    @property
    def passes(self) -> int:
        """Ablated models of a step, each forward and backward."""
        return 1 + bool(self.weights.completeness) + bool(self.weights.selectivity)

    @property
    def forward_passes(self) -> int:
        """The counterfactual prompts, where they are asked for."""
        return int(self.counterfactual > 0)

    def least_rows(self, num_classes: int) -> int:
        """Returns one problem for each size, and for each class."""
        return max(self.sizes, num_classes)

    def check(self, num_classes: int) -> None:
        """See `Objective`."""
        if num_classes == 1 and (self.specific is not None or self.weights.selectivity):
            raise InputError(
                'num_classes=1: one class has no other to be told from; leave out the specific '
                'part and the weight of selectivity, or choose 2 classes or more'
            )

    def suited_to(self, num_classes: int) -> 'AnySize':
        """Returns it without what tells classes apart, where there is one class only."""
        if num_classes > 1:
            return self
        weights = dataclasses.replace(self.weights, selectivity=0.0)
        return dataclasses.replace(self, specific=None, weights=weights)

    def check_shape(self, shape: LlamaConfig, name: str) -> None:
        """See `Objective`."""
        if round(self.smallest * shape.num_neurons) < 1:
            raise InputError(
                f'smallest={self.smallest} of the {shape.num_neurons} neurons of the {name} is '
                f'less than one: choose at least {1 / shape.num_neurons:.2g}'
            )

    def init(
        self,
        key: jax.Array,
        shape: LlamaConfig,
        num_classes: int,
        first_scores: np.ndarray | None,
    ) -> dict[str, jax.Array]:
        """Returns `scores` `[K, L, F]`, in front of them those of what is shared, if anything."""
        rankings = num_classes + (self.specific is not None)
        size = (rankings, shape.num_layers, shape.intermediate_size)
        scores = 0.1 * jax.random.normal(key, size)
        if first_scores is not None:
            core = [] if self.specific is None else [first_scores.mean(axis=0, keepdims=True)]
            scores = scores + np.concatenate([*core, first_scores])
        return {'scores': scores}

    def draw_rows(self, key: jax.Array, rows: int, num_classes: int) -> dict[str, jax.Array]:
        """Returns `resampled`, whose fill is counterfactual, and `other`, whose circuit goes."""
        fills, others = jax.random.split(key)
        draws = {}
        if self.counterfactual:
            draws['resampled'] = jax.random.uniform(fills, (rows,)) < self.counterfactual
        if self.weights.selectivity:
            draws['other'] = jax.random.randint(others, (rows,), 1, num_classes)
        return draws

    def draw(self, key: jax.Array, shape: LlamaConfig, num_classes: int) -> dict[str, jax.Array]:
        """Returns the `sizes` `[G]` of a step, and the `noise` `[G, K, L, F]` of its scores."""
        of_sizes, of_noise = jax.random.split(key)
        smallest, largest = (round(s * shape.num_neurons) for s in (self.smallest, self.largest))
        rankings = num_classes + (self.specific is not None)
        size = (self.sizes, rankings, shape.num_layers, shape.intermediate_size)
        return {
            'sizes': log_uniform_sizes(of_sizes, self.sizes, smallest, largest),
            'noise': self.noise * self.temperature * jax.random.logistic(of_noise, size),
        }

    def final_weights(self, learned: bool) -> dict[str, float]:
        """See `Objective`."""
        weights = vars(self.weights)
        passed_over = () if learned else ('usage',)
        return {k: w for k, w in weights.items() if w and k not in passed_over}

    def loss(
        self, params: Any, subject: Subject, draws: Mapping[str, jax.Array], progress: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See `Objective`; the draws are those of `draw` and `draw_rows`."""
        z_BxK = subject.assignments
        B, K = z_BxK.shape
        noisy = params['scores'][None] + draws['noise']
        circuits_GxKxLxF, parts_GxKxLxF = self._gates(noisy, draws['sizes'])
        sizes_BxG = jax.nn.one_hot(jnp.arange(B) % self.sizes, self.sizes)

        def of_rows(masks_GxKxLxF, classes_BxK):
            rows_BxGK = (sizes_BxG[:, :, None] * classes_BxK[:, None]).reshape(B, -1)
            return masks_of_rows(rows_BxGK, masks_GxKxLxF.reshape(-1, *masks_GxKxLxF.shape[2:]))

        fill = None
        if 'resampled' in draws:
            fill = jnp.where(
                draws['resampled'][None, :, None, None],
                subject.counterfactual_neurons().astype(jnp.float32),
                subject.fill[:, None],
            )
        without = {}
        if self.weights.completeness:
            own = of_rows(parts_GxKxLxF, z_BxK)
            without['without_own_logits'] = subject.ablated_logits(1 - own, fill)
        if self.weights.selectivity:
            at = (jnp.arange(K)[None] + draws['other'][:, None]) % K
            other = of_rows(parts_GxKxLxF, jnp.take_along_axis(z_BxK, at, axis=1))
            without['without_other_logits'] = subject.ablated_logits(1 - other, fill)
        return any_size_loss(
            subject.full_logits(),
            subject.ablated_logits(of_rows(circuits_GxKxLxF, z_BxK), fill),
            sizes_BxG,
            probabilities=subject.probabilities,
            answered=subject.answered,
            weights=self.weights,
            **without,
        )

    def scores(self, params: Any) -> jax.Array:
        """Returns the scores `[K, L, F]`, in front of them those of what is shared, if anything."""
        return params['scores']

    def ranking(self, scores: np.ndarray) -> np.ndarray:
        """Returns the scores that circuits of any size are cut from, `[K, L, F]`."""
        if self.specific is None:
            return scores
        if self.specific == LEARNED_PART:
            return np.asarray(membership_scores(scores))
        return nested_scores(scores[0], scores[1:], self.specific)

    def _gates(self, scores_GxKxLxF, sizes_G):
        """Returns the circuits `[G, K, L, F]` and the part of each that its class can lose."""
        neurons = {'temperature': self.temperature, 'axis': (-2, -1)}
        if self.specific is None:
            circuits = top_k_gate(scores_GxKxLxF, sizes_G[:, None], **neurons)
            return circuits, circuits
        if self.specific == LEARNED_PART:
            scores = membership_scores(scores_GxKxLxF)
            circuits = top_k_gate(scores, sizes_G[:, None], **neurons)
            margin = scores_GxKxLxF[:, 1:] - scores_GxKxLxF[:, :1]
            soft = jax.nn.sigmoid(margin / self.temperature)
            own = (margin > 0) + (soft - jax.lax.stop_gradient(soft))
            return circuits, circuits * own
        own_G = specific_size(sizes_G, self.specific, jnp)
        core = top_k_gate(scores_GxKxLxF[:, :1], (sizes_G - own_G)[:, None], **neurons)
        rest = 1 - jax.lax.stop_gradient(core)
        # Far below all others: a neuron of the core is nobody's own.
        outside = scores_GxKxLxF[:, 1:] - _FAR * (1 - rest)
        parts = rest * top_k_gate(outside, own_G[:, None], **neurons)
        return core + parts, parts


# More than scores ever differ by, and little enough for float32 to tell them apart.
_FAR = 1e4
