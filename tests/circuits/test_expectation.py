"""Each round trains for the classes of the one before, and nothing is left of an empty class."""

import jax
import numpy as np
import toy_study as toy

from cdjax.circuits.classes import CLASSES, Sorting
from cdjax.circuits.expectation import refined_classes
from cdjax.inference.divergences import circuit_divergences
from cdjax.inference.means import neuron_means
from cdjax.models import Edit

POINTS = np.array([0.0, 1.0, 2.0, 7.0, 8.0, 9.0])


def distances(asked):
    """Both steps of k-means on a line, whose fixed point is known: hard EM of another model."""

    def of(classes, at):
        asked.append(at)
        centres = [POINTS[classes == k].mean() for k in range(classes.max() + 1)]
        return np.abs(POINTS[:, None] - np.array(centres)[None])

    return of


def test_it_ends_at_classes_that_stay():
    asked = []
    found = refined_classes(np.array([0, 0, 0, 0, 0, 1]), distances(asked))
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 1, 1])
    assert found.dtype == np.int32
    assert asked == list(range(len(asked)))
    assert len(asked) <= 3


def test_rounds_are_bounded_and_a_class_that_dies_is_gone():
    flip = lambda classes, at: np.eye(2)[np.full(4, at % 2)] * -1.0
    found = refined_classes(np.array([0, 0, 1, 1]), flip, rounds=3)
    np.testing.assert_array_equal(found, [0, 0, 0, 0])


def test_divergence_is_that_of_the_logits():
    model, data = toy.model(), toy.dataset()[:20]
    fill = neuron_means(model, data)
    masks = np.random.default_rng(0).random((2, toy.L, toy.F)) < 0.5
    masks[1] = True
    found = circuit_divergences(model, data, masks, fill, tokens_per_pass=toy.T * 8)
    assert found.shape == (20, 2)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-5)
    at = data.lengths - 1
    scale = masks[0].astype(np.float32)[:, None, None]
    edit = Edit(scale, center=fill[:, None])
    run = jax.jit(lambda edits: model(data.tokens, edits=edits, logits_at=at)[0])
    logits = [run(edits) for edits in ({}, {'neurons': edit})]
    log_p, log_q = (
        np.log(np.exp(x) / np.exp(x).sum(-1, keepdims=True)) for x in map(np.asarray, logits)
    )
    np.testing.assert_allclose(found[:, 0], (np.exp(log_p) * (log_p - log_q)).sum(-1), rtol=1e-3)


def test_without_a_search_there_are_no_such_classes():
    assert CLASSES['em'].assign(Sorting(toy.dataset(), 2)) is None


def test_it_starts_from_clusters_of_attributions():
    data = toy.dataset()
    vectors = np.random.default_rng(0).normal(size=(len(data), 3))
    vectors[: len(data) // 2] += 9
    given = []

    def stay(classes, at):
        given.append(classes)
        return -np.eye(2)[classes]

    rows = np.arange(len(data))
    sorting = Sorting(data, 2, rows=rows, vectors=lambda: vectors, divergences=stay)
    found = CLASSES['em'].assign(sorting)
    assert len(given) == 1
    np.testing.assert_array_equal(found, given[0])
    assert len(set(found[: len(data) // 2])) == len(set(found[len(data) // 2 :])) == 1
