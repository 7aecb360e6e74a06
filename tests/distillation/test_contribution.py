"""How much units write, by loops; and random units that write as much."""

import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.contribution import (
    contributed_part,
    equally_contributing,
    unit_contributions,
)
from cdjax.distillation.store import TeacherStore


@pytest.mark.parametrize('site', ['neurons', 'head_out'])
def test_contributions_are_the_deviations_of_what_each_unit_writes(site):
    data = toy.dataset()[:20]
    store = TeacherStore.build(toy.model(), data, layers=(1,), site=site, outputs=True)
    found = unit_contributions(store, toy.L)
    assert not found[0].any()
    a = store.activations[:, 0].astype(np.float64)
    W = store.outputs[0].reshape(*a.shape[1:], -1)
    for unit in (0, 3):
        deviations = a[:, unit] - a[:, unit].mean(axis=0)
        if site == 'neurons':
            adds = (deviations[:, None] * W[unit]) ** 2
        else:  # coordinates are taken to vary by themselves
            adds = ((deviations[:, :, None] * W[unit]) ** 2).sum(axis=1)
        assert found[1, unit] == pytest.approx(np.sqrt(adds.sum(axis=1).mean()), rel=1e-4)


def test_dead_units_contribute_nothing():
    data = toy.dataset()[:20]
    store = TeacherStore.build(toy.model(), data, layers=(0,), outputs=True)
    store.activations[:, 0, 7] = 5.0
    assert unit_contributions(store, toy.L)[0, 7] == 0


def test_random_units_outside_a_circuit_add_as_much():
    rng = np.random.default_rng(0)
    contribution = rng.exponential(size=(2, 200))
    contribution[:, 150:] = 0
    masks = np.zeros((3, 2, 200), bool)
    masks[:, :, :20] = True
    masks[2, 0] = False
    drawn = equally_contributing(masks, contribution, seed=0)
    np.testing.assert_array_equal(drawn.sum(axis=-1), masks.sum(axis=-1))
    assert not (drawn & masks).any()
    assert not drawn[:, :, 150:].any(), 'dead'
    for k in range(3):
        part = contributed_part(drawn[k : k + 1], masks[k : k + 1], contribution)
        assert part == pytest.approx(1, abs=0.02)
    again = equally_contributing(masks, contribution, seed=0)
    other = equally_contributing(masks, contribution, seed=1)
    np.testing.assert_array_equal(drawn, again)
    assert (drawn != other).any()
    # A plain draw of that size misses by far more, so that the exchange is what does it.
    plain = [np.square(rng.permutation(contribution[0, 20:150])[:20]).sum() for _ in range(20)]
    assert np.std(np.sqrt(plain / np.square(contribution[0, :20]).sum())) > 0.1


def test_what_units_contribute_in_parts_of_the_circuits_is_a_mean_over_classes():
    contribution = np.array([[3.0, 4.0, 0.0], [12.0, 0.0, 5.0]])
    circuits, masks = np.zeros((3, 2, 3), bool), np.zeros((3, 2, 3), bool)
    circuits[0, :, 0] = True  # sqrt(9 + 144)
    circuits[1, 1, 2] = True  # 5; the third class holds what adds nothing
    circuits[2, 0, 2] = True
    masks[0, 0, :2] = True  # sqrt(9 + 16)
    masks[1, 1, 0] = True  # 12
    masks[2] = True
    expected = (5 / np.sqrt(153) + 12 / 5) / 2
    assert contributed_part(masks, circuits, contribution) == pytest.approx(expected)
    assert contributed_part(circuits, circuits, contribution) == 1
    shared = contributed_part(masks[:1], circuits, contribution)
    assert shared == pytest.approx((5 / np.sqrt(153) + 1) / 2)
    assert contributed_part(masks, circuits, contribution * 0) is None


def test_where_a_circuit_holds_those_that_add_most_others_add_less():
    contribution = np.linspace(2, 1, 40)[None]
    contribution[0, :5] = 100
    masks = np.zeros((1, 1, 40), bool)
    masks[0, 0, :5] = True
    drawn = equally_contributing(masks, contribution, seed=0)
    assert drawn.sum() == 5
    assert contributed_part(drawn, masks, contribution) < 0.03
    # The largest of the others, as far as they go.
    assert contribution[0, drawn[0, 0]].mean() > 1.7
