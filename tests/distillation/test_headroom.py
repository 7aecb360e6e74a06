"""How alike the targets of arms are: by hand, and for arms that do or do not differ."""

import dataclasses

import numpy as np
import pytest

from cdjax.circuits.circuit import Circuit
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS, Given
from cdjax.distillation.headroom import close_pairs, contributions, headroom, target_similarity

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
    assert [pair[:2] for pair in close_pairs(found)] == [('circuits', 'nearly')]


def test_pairs_that_are_close_begin_with_the_most_alike():
    values = {('a', 'b'): 0.71, ('a', 'c'): 0.9, ('b', 'c'): 0.7, ('a', 'd'): None, ('b', 'd'): 0.8}
    of = lambda a, b: values.get((a, b), values.get((b, a), -0.1))
    found = {a: {b: of(a, b) for b in 'abcd' if b != a} for a in 'abcd'}
    assert close_pairs(found) == [('a', 'c', 0.9), ('b', 'd', 0.8), ('a', 'b', 0.71)]


def test_arms_that_differ_in_their_classes_alone_have_no_headroom():
    shuffled = np.random.default_rng(1).permutation(CLASSES)
    other = np.roll(LEFT, 3, axis=2)
    arms = {
        'all': Alignment(((0, 0),)),
        'all_classes': dataclasses.replace(BASE, teacher_masks=None),
        'circuits': BASE,
        'random_classes': dataclasses.replace(BASE, classes=shuffled),
        'others': dataclasses.replace(BASE, classes=shuffled, teacher_masks=other),
        'shuffled': dataclasses.replace(BASE, teacher_rows=np.roll(np.arange(N), 2)),
        'again': dataclasses.replace(BASE, classes=CLASSES.copy(), student_masks=LEFT),
    }
    found = headroom(arms, dict.fromkeys(arms, ACTIVATIONS))
    untold = {(a, b) for a in found for b in found[a] if found[a][b] is None and a < b}
    assert untold == {
        ('all', 'all_classes'),
        ('circuits', 'random_classes'),
        ('again', 'random_classes'),
    }
    # Of one class, there is nothing else that two arms of all neurons could differ in.
    one = dataclasses.replace(BASE, classes=np.zeros(N, int), teacher_masks=None, num_classes=1)
    pair = {'all': arms['all'], 'all_classes': one}
    found = headroom(pair, dict.fromkeys(pair, ACTIVATIONS))
    assert found['all']['all_classes'] == pytest.approx(1, abs=1e-5)


def test_arms_that_compare_in_other_ways_are_told_apart_by_that():
    arms = {'circuits': BASE, 'fitnets': dataclasses.replace(BASE, similarity='linear_map')}
    found = headroom(arms, dict.fromkeys(arms, ACTIVATIONS))
    assert found == {'circuits': {'fitnets': None}, 'fitnets': {'circuits': None}}
    assert close_pairs(found) == []


def test_what_the_columns_of_arms_contribute_in_the_layers_that_they_compare():
    rng = np.random.default_rng(2)
    masks, added = rng.random((2, 3, U)) < 0.3, rng.exponential(size=(3, U))
    circuit = Circuit(masks, masks.astype(np.float32), np.zeros((3, 5, U), np.float32), CLASSES)
    given = Given(Alignment(((0, 1),)), np.arange(N), circuit, contribution=added)
    keys = ('kd', 'all', 'circuits', 'wrong', 'swapped', 'one_circuit', 'random_equal')
    arms = {key: ARMS[key].alignment(given) for key in keys}
    found = contributions(given, arms)
    assert list(found) == ['circuits', 'wrong', 'swapped', 'one_circuit', 'random_equal']
    assert found['circuits'] == 1
    of = lambda k, layer: np.sqrt(sum(added[layer, u] ** 2 for u in range(U) if masks[k, layer, u]))
    assert found['wrong'] == pytest.approx((of(1, 1) / of(0, 1) + of(0, 1) / of(1, 1)) / 2)
    assert found['swapped'] == pytest.approx((of(0, 2) / of(0, 1) + of(1, 2) / of(1, 1)) / 2)
    assert found['one_circuit'] > 1
    assert found['random_equal'] == pytest.approx(1, abs=0.4)
    unknown = dataclasses.replace(given, contribution=None)
    assert contributions(unknown, arms) == {}
