"""Which neurons the model has a use for, and how the methods rank them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import ATP, Context
from cdjax.data import Dataset
from cdjax.evaluation.living import DEAD_BELOW, chance_overlap, living_neurons, overlap_among
from cdjax.evaluation.ranks import rank_correlation
from cdjax.inference.means import neuron_deviations
from cdjax.models import Llama
from cdjax.run.options import RunOptions
from cdjax.studies.circuits.ablated import Ablated, number


def find_living(model: Llama, learned: Dataset, fill: np.ndarray, **passes) -> np.ndarray:
    """Returns which neurons vary over the problems learned from, bool `[L, F]`."""
    return living_neurons(neuron_deviations(model, learned, fill, **passes))


def study_living(ablated: Ablated, living: np.ndarray) -> dict[str, Any]:
    """Counts the living, and measures what the model answers with them alone."""
    alone = ablated.only_this(living)
    return {
        'dead_below': DEAD_BELOW,
        'neurons': int(living.sum()),
        'by_layer': living.sum(axis=1).tolist(),
        'accuracy': alone.accuracy,
        'probability': alone.mean_probability,
    }


def study_overlap(circuit: Circuit, living: np.ndarray) -> dict[str, Any]:
    """Returns how far circuits overlap among the living, and random ones of their kind would."""
    K = circuit.num_classes
    chance = chance_overlap(circuit.masks, living)
    pairs = ~np.eye(K, dtype=bool) if K > 1 else np.ones((1, 1), bool)
    return {
        'overlap': overlap_among(circuit.masks, living).tolist(),
        'chance_overlap': float(chance[pairs].mean()),
    }


def study_ranks(
    rankings: Mapping[str, Circuit], reference: np.ndarray, living: np.ndarray
) -> dict[str, Any]:
    """Returns how far each method ranks neurons as attribution does.

    A negative correlation within the circuits says that smaller ones, cut from the same ranking,
    lose the neurons first that matter most.

    Args:
        rankings: circuits of the methods that score neurons, by key.
        reference: float `[L, F]`, see `attribution`.
        living: bool `[L, F]`.
    """
    everywhere = np.ones_like(living)
    return {
        key: {
            'all': number(rank_correlation(circuit.scores, reference, everywhere)),
            'living': number(rank_correlation(circuit.scores, reference, living)),
            'circuit': number(rank_correlation(circuit.scores, reference, circuit.masks)),
        }
        for key, circuit in rankings.items()
    }


def attribution(
    model: Llama, learned: Dataset, fill: np.ndarray, ablation: str, **passes
) -> np.ndarray:
    """Returns what absolute attribution patching makes of each neuron, float32 `[L, F]`.

    Args:
        model: the model.
        learned: problems that were learned from, taken as one class.
        fill: float32 `[L, T, F]`, mean activations.
        ablation: what neurons become.
        **passes: mesh and tokens of a pass.
    """
    options = RunOptions(tokens_per_pass=passes['tokens_per_pass'])
    context = Context(fill=fill, ablation=ablation, mesh=passes['mesh'], options=options)
    rows = np.arange(len(learned))
    return ATP.scores(model, learned, rows, np.zeros(len(rows), np.int32), context=context)[0]
