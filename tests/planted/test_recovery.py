"""Figures that are counted by hand on eight neurons."""

import numpy as np
import planted_toy as toy
import pytest

from cdjax.planted.recovery import leading, mean_recovery, parts_found, recovery

ROWS = np.arange(6)


def scores(*orders):
    """Returns scores [K, 1, 8] from each class's neurons, the best first; the rest are tied."""
    found = np.zeros((len(orders), 1, 8))
    for k, order in enumerate(orders):
        found[k, 0, list(order)] = range(8, 8 - len(order), -1)
    return found


def test_a_ranking_that_is_right():
    truth = toy.ground_truth()
    assert truth.causal_size == 2  # of 2 and 3, rounded to even
    found = recovery(truth, scores([0, 1], [0, 3, 4]), truth.assignments, ROWS)
    assert found == {
        'auroc': 1.0,
        'auroc_living': 1.0,
        'precision': 1.0,
        'recall': (1 + 2 / 3) / 2,
        'shared': 1.0,
        'specific': (1 + 1 / 2) / 2,
        'other_specific': 0.0,
        'decoys': 0.0,
        'nmi': 1.0,
        'ari': 1.0,
    }


def test_classes_are_found_by_their_problems_whatever_they_are_called():
    truth = toy.ground_truth()
    turned = recovery(truth, scores([0, 3, 4], [0, 1]), 1 - truth.assignments, ROWS)
    assert turned == recovery(truth, scores([0, 1], [0, 3, 4]), truth.assignments, ROWS)


def test_a_ranking_that_is_wrong():
    truth = toy.ground_truth()
    found = recovery(truth, scores([7, 3], [7, 5]), truth.assignments, ROWS)
    for name in ('precision', 'recall', 'shared', 'specific'):
        assert found[name] == 0
    assert found['decoys'] == pytest.approx((1 / 3 + 2 / 3) / 2)  # of neurons 5, 6 and 7
    assert found['other_specific'] == pytest.approx((1 / 2 + 0) / 2)
    # Of the pairs of a causal neuron and another, a tie counts half: 8 of 12, and 9 of 15.
    assert found['auroc'] == pytest.approx((4 / 12 + 4.5 / 15) / 2)
    assert found['auroc_living'] == pytest.approx((4 / 10 + 4.5 / 12) / 2)  # without neuron 7


def test_the_first_of_what_is_planted_together():
    truth = toy.ground_truth()
    first = lambda ranking, share: [
        set(np.nonzero(mask[0])[0])
        for mask in leading(truth, scores(*ranking), truth.assignments, ROWS, share)
    ]
    assert first(([0, 1], [0, 4, 3]), 1.0) == [{0, 1}, {0, 3, 4}]
    # Half of one neuron is none; of the two of the second class's own its ranking decides.
    assert first(([0, 1], [0, 4, 3]), 0.5) == [set(), {4}]
    assert first(([0, 1], [0, 3, 4]), 0.5) == [set(), {3}]
    # The first class is what the second circuit is for where its problems have that.
    turned = leading(truth, scores([0, 3, 4], [0, 1]), 1 - truth.assignments, ROWS, 0.5)
    np.testing.assert_array_equal(
        turned, leading(truth, scores([0, 1], [0, 3, 4]), truth.assignments, ROWS, 0.5)
    )


def test_one_mask_for_all_problems():
    truth = toy.ground_truth()
    found = recovery(truth, scores([0, 1, 3, 4]), np.zeros(6, np.int32), ROWS)
    assert found['nmi'] == 0
    assert found['precision'] == (1 + 1 / 2) / 2  # neurons 0 and 1 for both classes
    assert found['other_specific'] == (0 + 1 / 2) / 2


def test_means_leave_out_what_is_not_there():
    assert mean_recovery([{'a': 1.0, 'b': None}, {'a': 0.0, 'b': None}]) == {'a': 0.5, 'b': None}


def test_parts_of_a_class_are_found_by_what_it_has_over_the_others():
    parts = np.zeros((2, 1, 8), bool)
    parts[0, 0, [0, 1]] = parts[1, 0, [2, 3]] = True
    # Neuron 4 is first for both classes, and so for neither.
    both = scores([4, 0, 1], [4, 2, 3])
    assert parts_found(both, parts) == {'auroc': 1.0, 'precision': 1.0}
    mixed = scores([0, 5], [2, 3])
    # Class 0: neuron 0 before 5 before five that are tied, of which 1 is one, before 2 and 3.
    found = parts_found(mixed, parts)
    pairs = [6, 5 - 3 + 3 * 0.5]  # of the six others, those that come behind neurons 0 and 1
    assert found['auroc'] == pytest.approx((sum(pairs) / 12 + 1) / 2)
    assert found['precision'] == pytest.approx((0.5 + 1) / 2)
    assert parts_found(both[:1], parts[:1]) == {'auroc': None, 'precision': None}
