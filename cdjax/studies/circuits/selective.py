"""Does a circuit matter to its own class, and only to that?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import RANDOM_MASKS
from cdjax.evaluation.selectivity import (
    selectivity,
    selectivity_interval,
    selectivity_matrix,
    specific_parts,
)
from cdjax.inference.predictions import Predictions
from cdjax.studies.circuits.ablated import Ablated, draw_circuits, number, plain


def study_selectivity(
    ablated: Ablated,
    circuit: Circuit,
    classes: np.ndarray,
    sizes: Sequence[int],
    living: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """Takes out each circuit, and what is its own, and measures every class.

    Args:
        ablated: the model on N problems.
        circuit: the circuits.
        classes: int `[N]`, of the problems.
        sizes: sizes in neurons, beside the circuits' own.
        living: bool `[L, F]`.
        seed: of random masks, which are drawn at the circuits' own size.

    Returns:
        Matrices at the size of the circuits, of what is left without whole ones, their specific
        parts and random masks like the whole ones, and with only each of them (`only_matrix`); and
        selectivity at every size.
    """
    K, masks = circuit.num_classes, circuit.masks
    whole, own_parts = ablated.without_each(masks), specific_parts(masks)
    specific = ablated.without_each(own_parts)
    random, groups = _without_random(ablated, masks, living, seed)
    matrix = lambda values: plain(selectivity_matrix(values, classes))
    at_own = {circuit.size: (whole, specific)}
    return {
        'matrix': matrix(_right(whole)),
        'probability_matrix': matrix(_probability(whole)),
        'specific_matrix': matrix(_right(specific)),
        'specific_probability_matrix': matrix(_probability(specific)),
        'specific_neurons': own_parts.sum(axis=(1, 2)).tolist(),
        'random_matrix': matrix(random),
        'only_matrix': matrix(_right(ablated.without_each(~masks))),
        'selectivity': number(selectivity(selectivity_matrix(_right(whole), classes))),
        'interval': selectivity_interval(_right(whole), classes),
        'random_selectivity': number(selectivity(selectivity_matrix(random, classes))),
        'random_interval': selectivity_interval(random, classes, groups),
        'accuracy': plain(ablated.full.accuracy_by_class(classes, K)),
        'counts': np.bincount(classes, minlength=K).tolist(),
        'by_size': [
            _at_size(ablated, circuit, classes, size, at_own.get(size))
            for size in sorted({*sizes, circuit.size})
        ]
        if K > 1
        else [],
    }


def study_methods_selectivity(
    ablated: Ablated, rankings: Mapping[str, Circuit], rows: np.ndarray, size: int
) -> dict[str, Any]:
    """Returns how selective the specific parts of each method's circuits are, for its own classes.

    Args:
        ablated: the model on N problems.
        rankings: circuits by key of the method; those of one class are passed over.
        rows: int `[N]`, which problems these are.
        size: of the circuits, in neurons.

    Returns:
        By key `specific_neurons`, the mean over classes, and what `selectivities` returns.
    """
    found = {}
    for key, ranking in rankings.items():
        if ranking.num_classes == 1:
            continue
        parts = specific_parts(ranking.at_size(size).masks)
        found[key] = {
            'specific_neurons': float(parts.sum(axis=(1, 2)).mean()),
            **selectivities(ablated.without_each(parts), ranking.assignments[rows]),
        }
    return found


def _without_random(ablated, masks, living, seed) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is right without random masks like each circuit, and each problem's draw."""
    nobody = np.zeros(len(ablated.problems), np.int32)
    drawn = draw_circuits(RANDOM_MASKS, masks, nobody, living, seed)
    # [K, M, L, F]: of each circuit all draws, of which a problem has one.
    of_circuits = np.moveaxis(drawn.masks.reshape(-1, *masks.shape), 0, 1)
    return _right(ablated.without(list(of_circuits), drawn.groups)), drawn.groups


def _at_size(ablated, circuit, classes, size, measured) -> dict[str, Any]:
    """Returns the selectivity of circuits of one size, whole and specific."""
    masks = circuit.at_size(size).masks
    own_parts = specific_parts(masks)
    if measured is None:
        measured = ablated.without_each(masks), ablated.without_each(own_parts)
    whole, specific = measured
    return {
        'size': size,
        'specific_neurons': float(own_parts.sum(axis=(1, 2)).mean()),
        'whole': selectivities(whole, classes),
        'specific': selectivities(specific, classes),
    }


def selectivities(without: Sequence[Predictions], classes: np.ndarray) -> dict[str, Any]:
    """Returns the selectivity of K circuits, in accuracy and in the answer's probability.

    Args:
        without: what is answered without each of them, K predictions for N problems.
        classes: int `[N]`.

    Returns:
        `accuracy`, `probability` and their bootstrap intervals over problems; None where fewer
        than two classes hold problems.
    """
    found = {}
    for name, values in (('accuracy', _right(without)), ('probability', _probability(without))):
        found[name] = number(selectivity(selectivity_matrix(values, classes)))
        found[f'{name}_interval'] = selectivity_interval(values, classes)
    return found


def _right(predictions: Sequence[Predictions]) -> np.ndarray:
    return np.stack([p.correct for p in predictions])


def _probability(predictions: Sequence[Predictions]) -> np.ndarray:
    return np.stack([p.probability for p in predictions])
