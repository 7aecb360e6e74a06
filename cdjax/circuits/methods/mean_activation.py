"""Mean |a|: the loudest neurons at the answer position."""

import functools

import jax.numpy as jnp
import numpy as np

from cdjax.circuits.methods.class_scores import average_by_class
from cdjax.circuits.methods.method import Context, Method
from cdjax.data import Dataset
from cdjax.inference.activations import answer_activations
from cdjax.models import SITES, Llama


def mean_activation(
    model: Llama, dataset: Dataset, rows: np.ndarray, classes: np.ndarray, *, context: Context
) -> np.ndarray:
    """Scores units by the mean of |a| at the answer position over the problems of each class.

    A unit of several coordinates, such as a head, counts with the norm of its activation.
    """
    function = _loudness(context.site)
    return average_by_class(function, model, dataset, rows, classes, context)


@functools.cache
def _loudness(site: str):
    within = tuple(range(3, 2 + len(SITES[site].axes)))  # axes of a unit, behind [B, L, U]

    def loudness(model, rows):
        _, taken = answer_activations(model, rows['tokens'], rows['lengths'], site=site)
        taken = taken.astype(jnp.float32)
        return jnp.sqrt(jnp.square(taken).sum(within)) if within else jnp.abs(taken)

    return loudness


MEAN_ACTIVATION = Method(
    'mean_activation', 'mean |a|', 'the largest mean |a|', 'sky', scores=mean_activation
)
