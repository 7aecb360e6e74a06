import numpy as np
import pytest
from scipy import stats

from cdjax.evaluation.statistics import (
    bootstrap_interval,
    equivalence_p,
    holm,
    paired_p,
    resampled_means,
    steps_to,
    student_interval,
)


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


def test_an_interval_over_groups_and_problems_covers_both():
    rng = np.random.default_rng(0)
    groups = np.arange(2400) % 12
    # Groups that differ by more than problems do: what many problems cannot average away.
    levels = rng.uniform(0.2, 0.8, size=12)
    values = rng.random(2400) < levels[groups]
    low, high = bootstrap_interval(values, groups)
    half = 1.96 * levels.std() / np.sqrt(12)
    np.testing.assert_allclose([low, high], values.mean() + np.array([-half, half]), atol=0.03)
    alone = bootstrap_interval(values)
    assert alone[1] - alone[0] < 0.3 * (high - low)
    # Problems that are right or wrong whatever the group.
    same = rng.random(600) < 0.3
    low, high = bootstrap_interval(same, np.arange(600) % 50)
    half = 1.96 * same.std() / np.sqrt(600)
    np.testing.assert_allclose([low, high], same.mean() + np.array([-half, half]), atol=0.01)


def test_resamples_are_those_of_a_loop():
    values = np.random.default_rng(1).random((2, 3, 7))
    groups = np.array([0, 1, 0, 1, 2, 2, 0])
    found = resampled_means(values, groups, samples=40, seed=5)
    rng = np.random.default_rng(5)
    for sample in found:
        drawn = rng.integers(3, size=3)
        taken = [i for group in drawn for i in np.flatnonzero(groups == group)]
        np.testing.assert_allclose(sample, values[..., taken].mean(-1))
    rng = np.random.default_rng(5)
    for sample in resampled_means(values, samples=40, seed=5):
        np.testing.assert_allclose(sample, values[..., rng.integers(7, size=7)].mean(-1))


def test_equal_numbers_are_resampled_alike():
    values = np.random.default_rng(0).random(50)
    both = resampled_means(np.stack([values, 2 * values]))
    np.testing.assert_allclose(both[:, 1], 2 * both[:, 0])
    np.testing.assert_allclose(both[:, 0], resampled_means(values))


def test_paired_and_equivalence_p_are_those_of_the_t_tests():
    gains = [0.004, -0.002, 0.003, 0.001]
    # By hand: mean .0015, deviation .002646, so t(3) = 1.134.
    assert paired_p(gains) == pytest.approx(0.3390, abs=1e-3)
    t = (0.01 - np.mean(gains)) / (np.std(gains, ddof=1) / 2)
    assert equivalence_p(gains, 0.01) == pytest.approx(stats.t.sf(t, 3))
    assert equivalence_p([0.02, 0.03, 0.021], 0.01) > 0.95
    assert paired_p([0.1]) is equivalence_p([0.1], 0.01) is None
    assert (paired_p([0.1, 0.1]), paired_p([0.0, 0.0])) == (0.0, 1.0)
    assert (equivalence_p([0.1, 0.1], 0.01), equivalence_p([0.0, 0.0], 0.01)) == (1.0, 0.0)


def test_holm_by_hand():
    # .005 · 4, .01 · 3, .03 · 2, and .04 · 1 raised to the one below.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_steps_to_a_level():
    curve = [(100, 0.2), (200, 0.6), (300, 0.5), (400, 0.9)]
    assert steps_to(curve, 0.4) == pytest.approx(150)
    assert steps_to(curve, 0.1) == pytest.approx(50)
    assert steps_to(curve, 0.7) == pytest.approx(350)
    assert steps_to(curve, 0.95) is None
    assert steps_to([], 0.5) is None
    assert steps_to([(10, 1.0)], 1.0) == 10


def test_a_bootstrap_is_of_one_axis():
    with pytest.raises(ValueError, match=r'shape \(2, 10\)'):
        bootstrap_interval(np.ones((2, 10)))
