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
