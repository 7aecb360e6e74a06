import itertools

import numpy as np
import pytest

from cdjax.circuits.masks import binarize, nested_scores
from cdjax.evaluation.selectivity import (
    compare_matrices,
    selectivity,
    selectivity_interval,
    selectivity_matrix,
    specific_parts,
)

CLASSES = np.array([0, 0, 1, 1, 1, 1])
MASKS = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], bool)

# What is right without each circuit: neuron 0 is needed for problems 0 and 2, neuron 2 for 3 to 5.
NEEDED_BY = {0: [0, 2], 1: [], 2: [3, 4, 5], 3: []}


def correct_without(masks):
    """Which problems are right without each circuit, bool [K, 6]."""
    correct = np.ones((len(masks), 6), bool)
    for k, mask in enumerate(masks):
        for neuron in np.flatnonzero(mask[0]):
            correct[k, NEEDED_BY[neuron]] = False
    return correct


def test_matrix_by_hand():
    matrix = selectivity_matrix(correct_without(MASKS), CLASSES)
    # Row: the circuit that is gone. Column: the class that is measured.
    np.testing.assert_array_equal(matrix, [[0.5, 0.75], [1.0, 0.25]])
    assert selectivity(matrix) == (0.75 + 1.0) / 2 - (0.5 + 0.25) / 2


def test_specific_parts_are_what_no_more_than_half_of_the_circuits_hold():
    #         neuron 0 in all, 1 in three, 2 in two, 3 and 4 in one circuit
    masks = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 0, 0, 1]], bool)
    own = [[0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(specific_parts(masks[:, None]), np.array(own, bool)[:, None])
    # Of two circuits the core is what both hold; one circuit has nothing of its own.
    np.testing.assert_array_equal(
        specific_parts(masks[2:, None])[:, 0], [[0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    )
    assert not specific_parts(masks[:1, None]).any()


def test_specific_parts_of_nested_circuits_are_the_parts_they_were_made_with():
    rng = np.random.default_rng(0)
    own = rng.random((4, 2, 50))
    scores = nested_scores(rng.random((2, 50)), own, 0.3)
    masks = binarize(scores, 20)
    parts = specific_parts(masks)
    # Six neurons each, but for those that most classes have chosen for their own.
    chosen = masks & ~masks.all(axis=0)
    assert (parts <= masks).all()
    assert not (parts & (masks.sum(0) > 2)).any()
    assert parts.sum() == chosen.sum() - (chosen & (masks.sum(0) == 3)).sum()
    assert 4 <= parts.sum(axis=(1, 2)).mean() <= 6


def test_an_empty_class_is_left_out():
    masks = np.concatenate([MASKS, MASKS[:1]])
    matrix = selectivity_matrix(correct_without(masks), CLASSES)
    assert np.isnan(matrix[:, 2]).all()
    # Off the diagonal: .75, 1, .5 and .75 (row 2 is a copy of row 0); on it: .5 and .25.
    assert selectivity(matrix) == pytest.approx(0.75 - 0.375)


def drawn(rng, draws, spread, problems=450):
    """Answers without each of two circuits, in draws whose selectivity is spread about .3."""
    classes, groups = rng.integers(2, size=problems), np.arange(problems) % draws
    own = classes == np.arange(2)[:, None]
    levels = rng.normal(0, spread, draws)[groups]
    right = np.where(own, 0.2, 0.5) + np.where(own, -levels / 2, levels / 2)
    return rng.random((2, problems)) < right, classes, groups


@pytest.mark.parametrize(('draws', 'spread'), [(1, 0.0), (20, 0.1)])
def test_interval_covers_what_other_draws_and_problems_show(draws, spread):
    rng = np.random.default_rng(draws)
    hits = []
    for _ in range(150):
        correct, classes, groups = drawn(rng, draws, spread)
        groups = groups if draws > 1 else None
        low, high = selectivity_interval(correct, classes, groups, samples=200)
        hits.append(low < 0.3 < high)
    assert 0.86 < np.mean(hits) < 0.995


def test_interval_of_draws_that_differ_is_wider_than_that_of_their_problems():
    correct, classes, groups = drawn(np.random.default_rng(0), 12, 0.2, problems=3000)
    wide = selectivity_interval(correct, classes, groups)
    narrow = selectivity_interval(correct, classes)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert selectivity_interval(correct, np.zeros_like(classes)) is None


def test_extremes():
    assert selectivity(1 - np.eye(3)) == 1
    assert selectivity(np.full((3, 3), 0.7)) == pytest.approx(0)
    assert np.isnan(selectivity(np.ones((1, 1))))


@pytest.mark.parametrize('classes', [3, 4])
def test_compare_matrices_counts_all_relabellings(classes):
    rng = np.random.default_rng(classes)
    first = rng.random((classes, classes))
    second = first + 0.6 * rng.random((classes, classes))
    observed = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    as_high = 0
    orders = list(itertools.permutations(range(classes)))
    for order in orders:
        relabelled = [[second[a, b] for b in order] for a in order]
        as_high += np.corrcoef(first.ravel(), np.ravel(relabelled))[0, 1] >= observed - 1e-12
    correlation, chance = compare_matrices(first, second)
    assert correlation == pytest.approx(observed)
    assert chance == as_high / len(orders)


def test_equal_matrices_are_as_alike_as_can_be():
    matrix = np.random.default_rng(0).random((4, 4))
    correlation, chance = compare_matrices(matrix, 3 * matrix - 1)
    assert correlation == pytest.approx(1)
    assert chance == 1 / 24


def test_many_classes_are_sampled_and_the_identity_is_among_them():
    matrix = np.random.default_rng(0).random((8, 8))
    correlation, chance = compare_matrices(matrix, matrix)
    assert correlation == pytest.approx(1)
    assert chance == 1 / 5040


def test_entries_without_problems_do_not_count():
    first = np.random.default_rng(0).random((3, 3))
    second = first.copy()
    second[:, 1] = np.nan
    assert compare_matrices(first, second)[0] == pytest.approx(1)


def test_where_a_comparison_has_no_meaning():
    matrix = np.random.default_rng(0).random((3, 3))
    correlation, chance = compare_matrices(matrix, np.ones((3, 3)))
    assert np.isnan(correlation)
    assert chance is None
    assert compare_matrices(matrix[:2, :2], matrix[:2, :2])[1] is None
