"""Which neurons the model has a use for, and how the methods rank them."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.data import Dataset
from cdjax.evaluation.living import DEAD_BELOW, chance_overlap, living_neurons, overlap_among
from cdjax.evaluation.ranks import rank_correlation
from cdjax.inference.gradients import metric_gradients
from cdjax.inference.means import neuron_deviations
from cdjax.inference.rows import mean_rows
from cdjax.models import Llama
from cdjax.studies.circuits.ablated import Ablated, number


def find_living(model: Llama, learned: Dataset, fill: np.ndarray, **passes) -> np.ndarray:
    """Returns which neurons vary over the problems learned from, bool `[L, F]`."""
    return living_neurons(neuron_deviations(model, learned, fill, **passes))


def study_living(ablated: Ablated, living: np.ndarray) -> dict[str, Any]:
    """Counts the living, and measures what the model answers with them alone."""
    (alone,) = ablated.only([living[None]], np.zeros(len(ablated.problems), np.int32))
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
        }
        for key, circuit in rankings.items()
    }


def attribution(model: Llama, dataset: Dataset, fill: np.ndarray, **passes) -> np.ndarray:
    """Returns absolute attribution patching of each neuron toward its mean, float32 `[L, F]`.

    `mean_i |Σ_t (a_it − fill_t) · ∂m_i/∂a_it|`, m the logit difference of answer and
    counterfactual answer (Syed et al., arXiv 2310.10348; Kramár et al., arXiv 2403.00745): what
    ablating the neuron would change, to first order.
    """
    rows = {
        'tokens': dataset.tokens,
        'lengths': dataset.lengths,
        'answers': dataset.answers,
        'counterfactual_answers': dataset.counterfactual_answers,
    }
    constants = {'model': model, 'fill': np.asarray(fill, np.float32)}
    return mean_rows(_attribution_rows(), constants, rows, **passes)


@functools.cache
def _attribution_rows():
    """Returns the function that `mean_rows` compiles, one and the same ever after."""

    def attribution_rows(constants, rows):
        activations, gradients = metric_gradients(constants['model'], rows)
        deviations = activations.astype(jnp.float32) - constants['fill'][:, None]
        return jnp.moveaxis(jnp.abs((deviations * gradients).sum(axis=2)), 1, 0)

    return attribution_rows
