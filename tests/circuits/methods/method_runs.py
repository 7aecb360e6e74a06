"""A method on the toy study: its scores, and the activations they are told from."""

import functools

import jax
import numpy as np
import toy_study as toy

from cdjax.circuits.methods import METHODS, Context
from cdjax.inference.means import neuron_means


@functools.cache
def classes():
    return np.random.default_rng(0).integers(toy.K, size=len(toy.dataset())).astype(np.int32)


@functools.cache
def fill():
    return neuron_means(toy.model(), toy.dataset()[toy.rows().train])


def context(**changes):
    return Context(**{'fill': fill(), **changes})


def scores_of(key, *, of=None, dataset=None, **changes):
    """Scores of a method on the training rows of the toy study."""
    of = classes() if of is None else of
    dataset = toy.dataset() if dataset is None else dataset
    rows = toy.rows().train
    return METHODS[key].scores(toy.model(), dataset, rows, of, context=context(**changes))


@functools.cache
def activations(site='neurons'):
    """Activations of all problems, float64 `[N, L, T, ...]`."""
    run = jax.jit(lambda m, t: m(t, capture=(site,), logits_at=-1)[1][site])
    return np.moveaxis(np.asarray(run(toy.model(), toy.dataset().tokens), np.float64), 1, 0)
