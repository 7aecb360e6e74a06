"""What an objective of discovery is: its parameters, its random numbers, its loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.circuits.ablation import keep_only
from cdjax.data.encoding import NO_TOKEN
from cdjax.errors import InputError
from cdjax.inference.predictions import answer_columns
from cdjax.models import Llama, LlamaConfig
from cdjax.parallel.mesh import FSDP, TENSOR, constrain


@dataclasses.dataclass(frozen=True)
class Subject:
    """A frozen model, a batch of problems, and what an objective may ask of them.

    Attributes:
        model: the model.
        fill: float32 `[L, T, F]`, what an ablated neuron becomes.
        batch: `tokens` and `counterfactual_tokens` int `[B, T]`, `lengths` int `[B]`, `answers` int
            `[B]`, or `[B, A]` where they have several tokens.
        store: what was stored of the model's answers, as the objective's `stores` asks: `logits`
            float32 `[B, V]`, or `[B, A, V]`, `activations` `[B, D]`.
        assignments: `[B, K]`, one-hot rows, with a straight-through gradient where learned.
        probabilities: `[B, K]`, softmax of the classifier; None where classes are fixed.
        remat: what a backward pass keeps.
    """

    model: Llama
    fill: jax.Array
    batch: Mapping[str, Any]
    store: Mapping[str, jax.Array]
    assignments: jax.Array
    probabilities: jax.Array | None
    remat: str

    def full_logits(self) -> jax.Array:
        """Returns what the whole model says, `[B, V]` or `[B, A, V]`: as stored, or said again."""
        if 'logits' in self.store:
            return self.store['logits']
        return self.model(self.batch['tokens'], logits_at=answer_columns(self.batch))[0]

    def ablated_logits(
        self, masks_BxLxF: jax.Array, fill_LxBxTxF: jax.Array | None = None
    ) -> jax.Array:
        """Returns what the model says with only a mask of each problem left, like `full_logits`.

        Args:
            masks_BxLxF: 1 for the neurons that stay.
            fill_LxBxTxF: what the others become; `fill` if None.
        """
        masks_BxLxF = constrain(masks_BxLxF, FSDP, None, TENSOR)
        fill = self.fill[:, None] if fill_LxBxTxF is None else fill_LxBxTxF
        edits = {'neurons': keep_only(masks_BxLxF, fill)}
        at = answer_columns(self.batch)
        return self.model(self.batch['tokens'], edits=edits, logits_at=at, remat=self.remat)[0]

    @property
    def answered(self) -> jax.Array | None:
        """Which logits `[B, A]` are of a token of the answer; None where it has one token."""
        answers = self.batch['answers']
        return None if answers.ndim == 1 else answers != NO_TOKEN

    def counterfactual_neurons(self) -> jax.Array:
        """Returns the neurons on each problem's counterfactual, `[L, B, T, F]`."""
        tokens = self.batch['counterfactual_tokens']
        return self.model(tokens, capture=('neurons',), logits_at=())[1]['neurons']


def masks_of_rows(weights: jax.Array, masks: jax.Array) -> jax.Array:
    """Returns `Σ_k weights[b, k] masks[k]`, `[B, L, F]`.

    A product with one-hot rows, not a lookup: it carries a gradient to the classes.
    """
    return jnp.einsum('bk,klf->blf', weights, masks, precision=jax.lax.Precision.HIGHEST)


def check_density(density: float) -> None:
    """Raises InputError for what is no share of the neurons."""
    if not 0 < density < 1:
        raise InputError(f'density={density}: a share of the neurons, above 0 and below 1')


class Objective(Protocol):
    """What masks are trained for: a frozen dataclass, entered in `OBJECTIVES`.

    Attributes:
        key: the name that flags and results know it by.
        density: neurons of the circuits of the artefact, as a share of all.
        weights: of the terms, a frozen dataclass with a number for each.
        learning_rate: peak learning rate of the masks that suits it.
        stores: which of `logits` and `activations` of each problem it reads.
        standardized: whether it reads those activations standardised over all problems.
        task: the term that the gradients of the others are compared with.
        single_answers: whether it knows answers of one token only.
    """

    key: str
    density: float
    weights: Any
    learning_rate: float
    stores: tuple[str, ...]
    standardized: bool
    task: str
    single_answers: bool

    @property
    def passes(self) -> int:
        """Ablated models of a step, each forward and backward."""

    @property
    def forward_passes(self) -> int:
        """Further passes of the whole model in a step, without a gradient."""

    def least_rows(self, num_classes: int) -> int:
        """Returns how many problems the smallest part of a batch must have."""

    def check(self, num_classes: int) -> None:
        """Raises InputError for options that do not go with K classes."""

    def suited_to(self, num_classes: int) -> 'Objective':
        """Returns it without what does not go with K classes, for a control of another K."""

    def check_shape(self, shape: LlamaConfig, name: str) -> None:
        """Raises InputError for options that do not go with a model; `name` is for the message."""

    def init(
        self,
        key: jax.Array,
        shape: LlamaConfig,
        num_classes: int,
        first_scores: np.ndarray | None,
    ) -> Any:
        """Returns the first parameters of one model's masks.

        Args:
            key: PRNG key.
            shape: of the model.
            num_classes: K.
            first_scores: float32 `[K, L, F]`, scores to start near, on the scale of
                `cdjax.circuits.masks.log_ranks`; None to start from nothing.

        Raises:
            InputError: scores to start near, for masks that are not made of scores.
        """

    def draw_rows(self, key: jax.Array, rows: int, num_classes: int) -> dict[str, jax.Array]:
        """Returns the random numbers of a step that belong to a problem, `[B, ...]`."""

    def draw(self, key: jax.Array, shape: LlamaConfig, num_classes: int) -> dict[str, jax.Array]:
        """Returns the random numbers of a step that belong to one model's masks."""

    def loss(
        self, params: Any, subject: Subject, draws: Mapping[str, jax.Array], progress: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the weighted sum for one model, and the unweighted terms.

        Args:
            params: what `init` returns.
            subject: the model and its problems.
            draws: what `draw_rows` and `draw` return.
            progress: float32 scalar, the part of all steps that is done.
        """

    def final_weights(self, learned: bool) -> dict[str, float]:
        """Returns the weight of each term at the end of the training, for the gradient doctor.

        Args:
            learned: whether there is a classifier.
        """

    def scores(self, params: Any) -> jax.Array:
        """Returns the scores of neurons, float32 `[..., L, F]`; jitted."""

    def ranking(self, scores: np.ndarray) -> np.ndarray:
        """Returns the scores that circuits are cut from, float32 `[K, L, F]`, from `scores`."""
