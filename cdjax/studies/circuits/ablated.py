"""A model of which a part is ablated, on one set of problems: what every measurement asks."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.circuits.methods import Method
from cdjax.data import Dataset
from cdjax.inference.predictions import Predictions, predict
from cdjax.inference.sweeps import predict_each
from cdjax.models import Llama


@dataclasses.dataclass(frozen=True, eq=False)
class Ablated:
    """A model on N problems, its neurons ablated in one way.

    Attributes:
        model: the model.
        problems: the problems.
        fill: float32 `[L, T, F]`, mean activations.
        ablation: one of `cdjax.circuits.ablation.ABLATIONS`.
        passes: mesh and tokens of a pass, see `predict`.
        num_classes: K of the circuits that are studied: one program is compiled for as many masks.
            Of 1, the living and none have a program of their own.
    """

    model: Llama
    problems: Dataset
    fill: np.ndarray
    ablation: str
    passes: Mapping[str, Any]
    num_classes: int = 1

    @functools.cached_property
    def full(self) -> Predictions:
        """What the whole model answers."""
        return predict(self.model, self.problems, **self.passes)

    @functools.cached_property
    def none(self) -> Predictions:
        """What the model answers without any neuron, its attention alone."""
        config = self.model.config
        return self.only_this(np.zeros((config.num_layers, config.intermediate_size), bool))

    def only_this(self, mask: np.ndarray) -> Predictions:
        """Returns what the model answers with only one circuit for all, bool `[L, F]`."""
        return self._of_all([mask], self.num_classes)[0]

    def only(self, masks: Sequence[np.ndarray], classes: np.ndarray) -> list[Predictions]:
        """Returns what the model answers with only the circuit of each problem.

        A whole sweep is one call.

        Args:
            masks: for each of its points bool `[K, L, F]`.
            classes: int `[N]`, which of the K circuits is the problem's.
        """
        fixed = {'fill': self.fill, 'ablation': self.ablation, 'classes': classes, **self.passes}
        return predict_each(self.model, self.problems, masks, **fixed)

    def without(self, masks: Sequence[np.ndarray], classes: np.ndarray) -> list[Predictions]:
        """Returns what the model answers without that circuit; see `only`."""
        return self.only([~m for m in masks], classes)

    def without_each(self, masks: np.ndarray) -> list[Predictions]:
        """Returns what the model answers to all problems without each of K circuits.

        Args:
            masks: bool `[K, L, F]`.
        """
        return self._of_all(~masks, len(masks))

    def _of_all(self, masks, K):
        # K equal masks in place of one, for which a program of its own would be compiled.
        equal = [np.broadcast_to(mask, (K, *mask.shape)) for mask in masks]
        return self.only(equal, np.zeros(len(self.problems), np.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class Circuits:
    """The circuits of one method at one size, and which of them is each problem's.

    Random masks are drawn several times. Each problem is then measured with one of the draws, in
    turn: that costs one pass over the problems whatever the number of draws, and tells their mean
    nearly as well as all draws on all problems would.

    Attributes:
        masks: bool `[M·K, L, F]`, those of a draw behind each other.
        classes: int `[N]`, the mask of each problem.
        groups: int `[N]`, the draw of each problem; None where nothing is drawn.
    """

    masks: np.ndarray
    classes: np.ndarray
    groups: np.ndarray | None = None


def draw_circuits(
    method: Method, masks: np.ndarray, classes: np.ndarray, living: np.ndarray, seed: int
) -> Circuits:
    """Returns all draws of a method that draws masks like those that are studied.

    Args:
        method: the method.
        masks: bool `[K, L, F]`, the circuits that are studied.
        classes: int `[N]`.
        living: bool `[L, F]`, the neurons that are alive.
        seed: of the first draw.
    """
    drawn = [method.draw(masks, seed=seed + i, living=living) for i in range(method.draws)]
    groups = in_turn(len(classes), method.draws, seed)
    return Circuits(np.concatenate(drawn), groups * len(masks) + classes, groups)


def in_turn(problems: int, draws: int, seed: int) -> np.ndarray:
    """Returns the draw of each problem, int `[N]`: equally many for each, in random order.

    Of fewer problems than draws, each has its own.
    """
    return np.random.default_rng(seed).permutation(np.arange(problems) % draws)


def plain(values: np.ndarray) -> list:
    """Returns nested lists with None for NaN, as JSON has it."""
    if values.ndim > 1:
        return [plain(row) for row in values]
    return [number(x) for x in values.tolist()]


def number(x: float) -> float | None:
    """Returns a number, None for NaN."""
    return None if x != x else x
