"""How much of a known circuit a ranking of neurons finds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.circuits.masks import binarize
from cdjax.evaluation.classes import agreement
from cdjax.planted.ground_truth import GroundTruth


def recovery(
    truth: GroundTruth, scores: np.ndarray, classes: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
    """Compares a ranking with the ground truth, neuron by neuron, means over the planted classes.

    A planted class is looked for in the circuit that most of its problems belong to.

    Args:
        truth: the ground truth.
        scores: float `[K', L, F]`, the highest for the neurons of a circuit.
        classes: int `[N]`, the circuit of each problem.
        rows: int, the problems whose classes are compared.

    Returns:
        `auroc` over all neurons, and `auroc_living` over those that vary; `precision` and `recall`
        of circuits of the causal size; recall there of the causal `shared` and `specific` neurons,
        the part of the `other_specific` neurons (planted for other classes) and of the `decoys`
        that is in them; and `nmi` and `ari` of the classes. A figure without neurons is None.
    """
    circuits = _circuits(truth, len(scores), classes, rows)
    masks = binarize(scores, max(truth.causal_size, 1))
    found = []
    for k, (causal, circuit) in enumerate(zip(truth.necessary, circuits, strict=True)):
        score, mask = scores[circuit], masks[circuit]
        others = np.delete(truth.specific, k, axis=0).any(axis=0)
        found.append(
            {
                'auroc': _auroc(causal, score, np.ones_like(causal)),
                'auroc_living': _auroc(causal, score, truth.living),
                'precision': _part(causal, mask) if causal.any() else None,
                'recall': _part(mask, causal),
                'shared': _part(mask, causal & truth.shared),
                'specific': _part(mask, causal & truth.specific[k]),
                'other_specific': _part(mask, others),
                'decoys': _part(mask, truth.decoys),
            }
        )
    agreed = agreement(classes[rows], truth.assignments[rows])
    return mean_recovery(found) | {'nmi': agreed.nmi, 'ari': agreed.ari}


def leading(
    truth: GroundTruth, scores: np.ndarray, classes: np.ndarray, rows: np.ndarray, share: float
) -> np.ndarray:
    """Returns of the neurons that each class needs those that a ranking puts first.

    A share of each group, which is what was planted together in one layer: the shared ones, or a
    class's own. What a class answers with these alone tells whether the rest of the planted neurons
    does anything that a ranking by effects could find.

    Args:
        truth: the ground truth.
        scores: float `[K', L, F]`, as for `recovery`.
        classes: int `[N]`, likewise.
        rows: int, likewise.
        share: of each group, rounded to neurons.

    Returns:
        bool `[K, L, F]`.
    """
    first = np.zeros_like(truth.necessary)
    circuits = _circuits(truth, len(scores), classes, rows)
    for k, (causal, circuit) in enumerate(zip(truth.necessary, circuits, strict=True)):
        for group in (truth.shared, truth.specific[k]):
            for layer, needed in enumerate(causal & group):
                (neurons,) = np.nonzero(needed)
                order = np.argsort(-scores[circuit, layer, neurons], kind='stable')
                first[k, layer, neurons[order[: round(share * len(neurons))]]] = True
    return first


def _circuits(truth: GroundTruth, count: int, classes: np.ndarray, rows: np.ndarray) -> list[int]:
    """Returns for each planted class the circuit, of so many, that most of its problems have."""
    planted, given = truth.assignments[rows], classes[rows]
    K = len(truth.necessary)  # rows of it, also where one circuit serves all
    counts = (np.bincount(given[planted == k], minlength=count) for k in range(K))
    return [int(each.argmax()) for each in counts]


def parts_found(scores: np.ndarray, parts: np.ndarray) -> dict[str, float | None]:
    """Returns how well a ranking finds the neurons that are each class's own, means over classes.

    A neuron is ranked for a class by its score there minus its mean score for the others.

    Args:
        scores: float `[K, L, F]`, the highest for the neurons of a circuit.
        parts: bool `[K, L, F]`, the neurons that are each class's own.

    Returns:
        `auroc`, in all layers, and `precision` of as many neurons as a part has; .5 and the share
        of the part by chance, None of one class or where nothing is any class's own.
    """
    found = []
    for k in range(len(parts)) if len(parts) > 1 else ():
        contrast = scores[k] - np.delete(scores, k, axis=0).mean(axis=0)
        size = int(parts[k].sum())
        first = np.argsort(-contrast, axis=None, kind='stable')[:size]
        found.append(
            {
                'auroc': _auroc(parts[k], contrast, np.ones_like(parts[k])),
                'precision': float(parts[k].ravel()[first].mean()) if size else None,
            }
        )
    return mean_recovery(found) if found else {'auroc': None, 'precision': None}


def mean_recovery(found: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Returns the mean of each figure over those recoveries that have it, None where none has."""
    return {name: _mean([one[name] for one in found]) for name in found[0]}


def _part(inside: np.ndarray, of: np.ndarray) -> float | None:
    """Returns the part of some neurons that is in a set, None of no neurons."""
    return float(inside[of].mean()) if of.any() else None


def _auroc(causal: np.ndarray, score: np.ndarray, among: np.ndarray) -> float | None:
    here = causal[among]
    if here.all() or not here.any():
        return None
    from sklearn.metrics import roc_auc_score  # takes seconds to import

    return float(roc_auc_score(here, score[among]))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
