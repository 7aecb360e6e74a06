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
from cdjax.evaluation.statistics import student_interval


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


def test_areas_over_seeds_are_as_wide_as_seeds_and_problems_are():
    sizes, none, full = np.array([0, 0.5, 1]), np.zeros(20), np.full(20, 2.0)
    good, poor = np.full((3, 20), 2.0), np.zeros((3, 20))
    two = areas_over_seeds(sizes, np.stack([good, poor]), none, full)
    # Seeds of 1 and 0, and problems that are alike: Student's interval alone.
    expected = np.array(student_interval(np.array([1.0, 0.0])))
    assert two.cpr == two.cmd == 0.5
    np.testing.assert_allclose([two.cpr_interval, two.cmd_interval], [expected, expected])
    rng = np.random.default_rng(0)
    noisy = rng.normal(1, 1, (3, 20))
    alone = areas(sizes, noisy, none, full)
    alike = areas_over_seeds(sizes, np.stack([noisy] * 3), none, full)
    width = lambda interval: interval[1] - interval[0]
    assert alike.cpr == pytest.approx(alone.cpr)
    # Seeds that are alike: the problems' alone, and they are the same for all seeds.
    assert width(alike.cpr_interval) == pytest.approx(width(alone.cpr_interval))
    # Seeds a constant apart add Student's to it, as squares.
    apart = areas_over_seeds(sizes, np.stack([noisy, noisy + 0.4]), none, full)
    student = student_interval(np.array([alone.cpr, alone.cpr + 0.2]))
    assert width(apart.cpr_interval) == pytest.approx(
        np.hypot(width(student), width(alone.cpr_interval))
    )
    with pytest.raises(InputError, match='does as well as the empty circuit'):
        areas_over_seeds(sizes, noisy[None], none, none)


def test_resamples_in_which_the_model_does_nothing_tell_nothing():
    full = np.array([0.0, 0.0, 0.0, 4.0])  # three in ten resamples have no problem that it solves
    found = areas(np.array([0, 1]), np.zeros((2, 4)), np.zeros(4), full)
    assert np.isfinite([*found.cpr_interval, *found.cmd_interval]).all()
