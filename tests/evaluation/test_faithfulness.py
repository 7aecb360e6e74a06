import numpy as np
import pytest

from cdjax.errors import InputError
from cdjax.evaluation.faithfulness import (
    SIZES,
    area_from_one,
    area_under_faithfulness,
    areas,
    areas_over_seeds,
    faithfulness,
)


def test_by_hand():
    assert faithfulness(2.0, none=-1.0, full=3.0) == 0.75
    assert faithfulness(3.0, none=-1.0, full=3.0) == 1
    assert faithfulness(-1.0, none=-1.0, full=3.0) == 0
    assert faithfulness(5.0, none=1.0, full=3.0) == 2  # better than the whole model


def test_undefined_where_the_neurons_do_nothing():
    with pytest.raises(InputError, match='does as well as the empty circuit'):
        faithfulness(0.5, none=1.0, full=1.0009)
    assert faithfulness(1.0, none=1.0, full=1.002) == 0


def test_areas_of_a_circuit_that_works_when_whole_only():
    f = np.array([0.0] * 9 + [1.0])
    # The sizes end at .5 and 1: half of the last interval.
    assert area_under_faithfulness(SIZES, f) == pytest.approx(0.25)
    assert area_from_one(SIZES, f) == pytest.approx(0.499 + 0.25)


def test_areas_of_a_perfect_and_of_an_overshooting_circuit():
    assert area_under_faithfulness(SIZES, np.ones(10)) == pytest.approx(0.999)
    assert area_from_one(SIZES, np.ones(10)) == 0
    assert area_from_one(SIZES, np.full(10, 1.5)) == pytest.approx(0.999 / 2)


def test_areas_with_intervals_by_hand():
    # Without noise: f is 0, .5 and 1 at the sizes 0, .5 and 1, whatever the problems.
    circuit = np.repeat([[1.0], [2.0], [3.0]], 20, axis=1)
    found = areas(np.array([0, 0.5, 1]), circuit, np.full(20, 1.0), np.full(20, 3.0))
    assert (found.cpr, found.cmd) == pytest.approx((0.5, 0.5))
    assert found.cpr_interval == found.cmd_interval == pytest.approx((0.5, 0.5))


def test_areas_compare_the_same_problems():
    """What makes a problem easy at every size and at both ends widens no interval."""
    easy = np.random.default_rng(0).normal(0, 5, 200)
    noise = 0.1 * np.random.default_rng(1).normal(size=(3, 200))
    circuit = easy + noise + np.array([[1.0], [2.0], [3.0]])
    found = areas(np.array([0, 0.5, 1]), circuit, easy + 1, easy + 3)
    low, high = found.cpr_interval
    assert low < found.cpr < high
    assert high - low < 0.02
    with pytest.raises(InputError, match='does as well as the empty'):
        areas(np.array([0, 0.5, 1]), circuit, easy, easy)


def test_areas_over_seeds_are_as_wide_as_seeds_differ():
    sizes, none, full = np.array([0, 0.5, 1]), np.zeros(20), np.full(20, 2.0)
    good, poor = np.full((3, 20), 2.0), np.zeros((3, 20))
    one = areas_over_seeds(sizes, good[None], none, full)
    assert one == areas(sizes, good, none, full)
    two = areas_over_seeds(sizes, np.stack([good, poor]), none, full)
    assert (two.cpr, two.cpr_interval) == (0.5, (0.0, 1.0))
    assert (two.cmd, two.cmd_interval) == (0.5, (0.0, 1.0))
    rng = np.random.default_rng(0)
    noisy = np.stack([rng.normal(1, 1, (3, 20))] * 2)
    alike = areas_over_seeds(sizes, noisy, none, full)
    np.testing.assert_allclose(alike.cpr_interval, areas(sizes, noisy[0], none, full).cpr_interval)
    with pytest.raises(InputError, match='does as well as the empty circuit'):
        areas_over_seeds(sizes, noisy, none, none)
