"""How alike the targets of arms are: by hand, and for arms that do or do not differ."""

import dataclasses

import numpy as np
import pytest

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.headroom import headroom, target_similarity, too_close

N, U = 60, 12
RNG = np.random.default_rng(0)
CLASSES = np.arange(N) % 2
ACTIVATIONS = RNG.normal(size=(N, 1, U))
LEFT = np.zeros((2, 1, U), bool)
LEFT[:, :, :6] = True
BASE = Alignment(((0, 0),), CLASSES, LEFT)


def debiased_cka(x, y):
    """Of Song et al. (2012), by its definition."""
    n = len(x)

    def hsic(K, L):
        K, L = K * (1 - np.eye(n)), L * (1 - np.eye(n))
        return (
            np.trace(K @ L) + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 * (K @ L).sum() / (n - 2)
        )

    K, L = x @ x.T, y @ y.T
    return hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))


def similarity(one, other):
    return target_similarity(one, other, ACTIVATIONS, ACTIVATIONS)


def test_equal_targets_are_one_and_independent_ones_nothing():
    right = dataclasses.replace(BASE, teacher_masks=~LEFT)
    assert similarity(BASE, BASE) == pytest.approx(1, abs=1e-5)
    assert abs(similarity(BASE, right)) < 0.15
    other_rows = dataclasses.replace(BASE, teacher_rows=np.roll(np.arange(N), 2))
    assert abs(similarity(BASE, other_rows)) < 0.3


def test_targets_are_compared_on_the_problems_that_are_in_one_class_of_either():
    everything = Alignment(((0, 0),))
    # Of unequal sizes: 20 and 40 problems of the other classes.
    thirds = dataclasses.replace(BASE, classes=np.minimum(np.arange(N) // 20, 1))
    x = ACTIVATIONS[:, 0]
    of = lambda rows, y: debiased_cka(x[rows][:, :6], y[rows])
    by_class = [of(CLASSES == k, x) for k in (0, 1)]
    assert similarity(BASE, everything) == pytest.approx(np.mean(by_class), abs=1e-4)
    assert similarity(everything, BASE) == pytest.approx(np.mean(by_class), abs=1e-4)
    shifted = dataclasses.replace(thirds, teacher_masks=np.roll(LEFT, 3, axis=2))
    values, counts = [], []
    for j in (0, 1):
        for k in (0, 1):
            rows = (CLASSES == j) & (thirds.classes == k)
            values.append(of(rows, x[:, 3:9]))
            counts.append(rows.sum())
    assert len(set(counts)) == 2
    expected = np.average(values, weights=counts)
    assert similarity(BASE, shifted) == pytest.approx(expected, abs=1e-4)


def test_classes_without_four_common_problems_say_nothing():
    alone = dataclasses.replace(BASE, classes=np.arange(N), teacher_masks=None, num_classes=N)
    assert similarity(BASE, alone) is None


def test_every_pair_of_arms_once_and_those_that_are_too_close():
    right = dataclasses.replace(BASE, teacher_masks=~LEFT)
    most = LEFT.copy()
    most[:, :, 5] = False
    arms = {
        'circuits': BASE,
        'rest': right,
        'nearly': dataclasses.replace(BASE, teacher_masks=most),
    }
    found = headroom(arms, dict.fromkeys(arms, ACTIVATIONS))
    assert {a: set(others) for a, others in found.items()} == {a: set(arms) - {a} for a in arms}
    assert found['rest']['nearly'] == found['nearly']['rest']
    assert set(too_close(found, 'circuits')) == {'nearly'}
    assert too_close(found, 'kd') == {}


def test_arms_that_compare_in_other_ways_are_told_apart_by_that():
    arms = {'circuits': BASE, 'fitnets': dataclasses.replace(BASE, similarity='linear_map')}
    found = headroom(arms, dict.fromkeys(arms, ACTIVATIONS))
    assert found == {'circuits': {'fitnets': None}, 'fitnets': {'circuits': None}}
    assert too_close(found, 'circuits') == {}
