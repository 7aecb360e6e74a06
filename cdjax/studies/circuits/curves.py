"""What circuits keep of a model, and what is lost without them, over their size."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.circuits.methods import LEARNED
from cdjax.errors import InputError
from cdjax.evaluation.faithfulness import SIZES, areas, faithfulness
from cdjax.evaluation.living import dead_share
from cdjax.evaluation.statistics import bootstrap_interval
from cdjax.inference.predictions import Predictions
from cdjax.studies.circuits.ablated import Ablated, Circuits
from cdjax.studies.circuits.config import sizes_in_neurons

KEPT = 0.95  # of the accuracy of the whole model, from where circuits are called faithful


def measure_curve(
    ablated: Ablated, circuits: Sequence[Circuits], living: np.ndarray
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Measures the circuits of one method at every size.

    Args:
        ablated: the model on N problems.
        circuits: of each of S sizes; the same problems have the same classes and draws at all.
        living: bool `[L, F]`.

    Returns:
        S points, means with intervals over problems and draws; and the logit differences with only
        the circuit, float32 `[S, N]`.
    """
    masks, classes = [c.masks for c in circuits], circuits[0].classes
    only, without = ablated.only(masks, classes), ablated.without(masks, classes)
    points = [
        {
            **_point(ablated, kept, left, c.groups),
            'dead': dead_share(c.masks, living),
        }
        for c, kept, left in zip(circuits, only, without, strict=True)
    ]
    return points, np.stack([p.logit_difference for p in only])


def measure_areas(
    ablated: Ablated, sizes: Sequence[int], differences: np.ndarray, groups: np.ndarray | None
) -> dict[str, Any] | None:
    """Returns CPR and CMD over MIB's nominal sizes, None where faithfulness is not defined.

    Args:
        ablated: the model.
        sizes: the sizes that were measured, in neurons; the nominal ones among them.
        differences: float `[S, N]`, see `measure_curve`.
        groups: int `[N]`, see `Circuits`.
    """
    at = [list(sizes).index(n) for n in sizes_in_neurons(SIZES, ablated.model.config.num_neurons)]
    ends = (ablated.none.logit_difference, ablated.full.logit_difference)
    try:
        return dataclasses.asdict(areas(np.array(SIZES), differences[at], *ends, groups))
    except InputError:  # a student that has learned nothing has no faithfulness, and no fault
        return None


def smallest_faithful_share(study: Mapping[str, Any]) -> float | None:
    """Returns the smallest evaluated share of neurons at which circuits keep 95 % of accuracy.

    None where there is none, or where the whole model answers nothing that could be kept.
    """
    for share, point in zip(study['shares'], study['curves'][LEARNED.key], strict=True):
        if point['only'] >= KEPT * study['accuracy'] > 0:
            return share
    return None


def _point(
    ablated: Ablated, only: Predictions, without: Predictions, groups: np.ndarray | None
) -> dict[str, Any]:
    """Returns one method at one size."""
    kept, left = _faithfulness(ablated, only), _faithfulness(ablated, without)
    return {
        **_means('only', only, groups),
        **_means('without', without, groups),
        'faithfulness': kept,
        'completeness': None if left is None else 1 - left,
    }


def _means(name: str, predictions: Predictions, groups: np.ndarray | None) -> dict[str, Any]:
    """Returns how many are right, and the answer's probability, with intervals."""
    return {
        name: predictions.accuracy,
        f'{name}_interval': bootstrap_interval(predictions.correct, groups),
        f'{name}_probability': predictions.mean_probability,
        f'{name}_probability_interval': bootstrap_interval(predictions.probability, groups),
    }


def _faithfulness(ablated: Ablated, predictions: Predictions) -> float | None:
    of = (predictions, ablated.none, ablated.full)
    try:
        return faithfulness(*(float(p.logit_difference.mean(dtype=np.float64)) for p in of))
    except InputError:
        return None
