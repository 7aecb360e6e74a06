"""A method on the toy study: its scores, and the activations they are told from."""

import functools

import jax
import numpy as np
import toy_study as toy

from cdjax.circuits.methods import METHODS, Context
from cdjax.inference.means import neuron_means


def learned_from():
    """Rows of the problems that methods learn from: a few of those for training."""
    return toy.rows().train[::5]


@functools.cache
def classes():
    """Three classes; as many numbers as problems, for a program that can tell them apart too."""
    drawn = np.random.default_rng(0).integers(toy.K, size=len(toy.dataset()))
    return np.array([0, 4, len(learned_from()) - 1], np.int32)[drawn]


@functools.cache
def fill():
    return neuron_means(toy.model(), toy.dataset()[learned_from()])


def context(**changes):
    return Context(**{'fill': fill(), **changes})


def scores_of(key, *, of=None, dataset=None, **changes):
    """Scores of a method on training rows of the toy study."""
    of = classes() if of is None else of
    dataset = toy.dataset() if dataset is None else dataset
    rows, shared = learned_from(), context(**changes)
    return METHODS[key].scores(toy.model(), dataset, rows, of, context=shared)


@functools.cache
def activations(site='neurons'):
    """Activations of all problems, float64 `[N, L, T, ...]`."""
    run = jax.jit(lambda m, t: m(t, capture=(site,), logits_at=-1)[1][site])
    return np.moveaxis(np.asarray(run(toy.model(), toy.dataset().tokens), np.float64), 1, 0)
