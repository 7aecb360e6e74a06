import numpy as np
import pytest

from cdjax.evaluation.statistics import bootstrap_interval, student_interval


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = np.arange(1000) < 300
    low, high = bootstrap_interval(values)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    np.testing.assert_allclose([low, high], [0.3 - half, 0.3 + half], atol=0.004)
    narrow = bootstrap_interval(values, level=0.5)
    half = 0.674 * np.sqrt(0.3 * 0.7 / 1000)
    np.testing.assert_allclose(narrow, [0.3 - half, 0.3 + half], atol=0.004)
    assert bootstrap_interval(np.ones(10)) == (1.0, 1.0)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)


def test_student_interval():
    # By hand: mean 2, standard error sqrt(1/3), t(2, .975) = 4.3027.
    low, high = student_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), rel=1e-4)
    assert student_interval(np.array([1.0])) is None


def test_an_interval_over_draws_and_problems_covers_both():
    rng = np.random.default_rng(0)
    # Draws that differ by more than problems do: what many problems cannot average away.
    levels = rng.uniform(0.2, 0.8, size=12)
    values = rng.random((12, 2000)) < levels[:, None]
    low, high = bootstrap_interval(values)
    half = 1.96 * values.mean(axis=1).std() / np.sqrt(12)
    np.testing.assert_allclose([low, high], values.mean() + np.array([-half, half]), atol=0.012)
    one = bootstrap_interval(values.mean(axis=0))
    assert one[1] - one[0] < 0.25 * (high - low)
    # Problems that are right or wrong whatever the draw: what many draws cannot.
    same = np.tile(rng.random(100) < 0.3, (50, 1))
    low, high = bootstrap_interval(same)
    half = 1.96 * same[0].std() / 10
    np.testing.assert_allclose([low, high], same.mean() + np.array([-half, half]), atol=0.015)


def test_one_draw_is_no_draw():
    values = np.random.default_rng(0).random(50)
    low, high = bootstrap_interval(values)
    again = bootstrap_interval(values[None])
    np.testing.assert_allclose(again, (low, high), atol=0.02)
