"""How much units write, by loops; and random units that write as much."""

import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.contribution import equally_contributing, unit_contributions
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
    drawn, part = equally_contributing(masks, contribution, seed=0)
    np.testing.assert_array_equal(drawn.sum(axis=-1), masks.sum(axis=-1))
    assert not (drawn & masks).any()
    assert not drawn[:, :, 150:].any(), 'dead'
    np.testing.assert_allclose(part, 1, atol=0.02)
    again, _ = equally_contributing(masks, contribution, seed=0)
    other, _ = equally_contributing(masks, contribution, seed=1)
    np.testing.assert_array_equal(drawn, again)
    assert (drawn != other).any()
    # A plain draw of that size misses by far more, so that the exchange is what does it.
    plain = [np.square(rng.permutation(contribution[0, 20:150])[:20]).sum() for _ in range(20)]
    assert np.std(np.sqrt(plain / np.square(contribution[0, :20]).sum())) > 0.1


def test_where_a_circuit_holds_those_that_add_most_what_was_reached_is_told():
    contribution = np.linspace(2, 1, 40)[None]
    contribution[0, :5] = 100
    masks = np.zeros((1, 1, 40), bool)
    masks[0, 0, :5] = True
    drawn, part = equally_contributing(masks, contribution, seed=0)
    assert drawn.sum() == 5
    assert part[0] < 0.03
    # The largest of the others, as far as they go.
    assert contribution[0, drawn[0, 0]].mean() > 1.7
    assert np.isnan(equally_contributing(masks, contribution * 0, seed=0)[1][0])
