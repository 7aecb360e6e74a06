import numpy as np
import pytest

from cdjax.errors import InputError
from cdjax.planted.plan import PlanConfig, draw_plan


def test_neurons_are_dealt_out_once():
    plan = draw_plan(PlanConfig(shared=3, specific=2, seed=5), 4, 2, 16)
    parts = np.concatenate([plan.shared[None], plan.specific, plan.decoys[None]])
    np.testing.assert_array_equal(parts.sum(axis=0), 1)
    np.testing.assert_array_equal(
        parts.sum(axis=2), np.array([3, 2, 2, 2, 2, 5])[:, None].repeat(2, 1)
    )
    np.testing.assert_array_equal(plan.circuits.sum(axis=2), 5)
    assert (plan.circuits[0] & plan.circuits[1] == plan.shared).all()
    assert not plan.empty
    # The layers are drawn apart, and every seed is another draw.
    assert (plan.shared[0] != plan.shared[1]).any()
    other = draw_plan(PlanConfig(shared=3, specific=2, seed=6), 4, 2, 16)
    assert (plan.shared != other.shared).any()


def test_towers_share_nothing_and_leave_nothing():
    plan = draw_plan(PlanConfig(shared=0, specific=None), 2, 3, 8)
    np.testing.assert_array_equal(plan.specific.sum(axis=2), 4)
    assert not plan.decoys.any()
    assert not plan.shared.any()


def test_nothing():
    plan = draw_plan(PlanConfig(shared=0, specific=0), 2, 1, 8)
    assert plan.empty
    assert plan.decoys.all()


def test_one_circuit_for_all_classes():
    plan = draw_plan(PlanConfig(shared=3, specific=0), 2, 2, 8)
    assert plan.one_circuit
    assert not plan.empty
    assert (plan.circuits == plan.shared).all()
    np.testing.assert_array_equal(plan.decoys.sum(axis=1), 5)
    for fields in ({'shared': 0, 'specific': 0}, {'shared': 3, 'specific': 2}):
        assert not draw_plan(PlanConfig(**fields), 2, 2, 8).one_circuit


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'shared': -1}, 'plant_shared=-1 must not be negative'),
        ({'shared': 1, 'specific': 4}, 'take 9 neurons of a layer, which has 8'),
        ({'shared': 9, 'specific': None}, 'take 9 neurons of a layer, which has 8'),
        ({'seed': -1}, 'plant_seed=-1 must not be negative'),
    ],
)
def test_what_cannot_be_dealt_out(fields, message):
    with pytest.raises(InputError, match=message):
        draw_plan(PlanConfig(**fields), 2, 1, 8)
