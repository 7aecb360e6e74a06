import numpy as np
import pytest

from cdjax.evaluation.ranks import rank_correlation

REFERENCE = np.array([[1.0, 2.0, 3.0, 4.0]])
ALL = np.ones((1, 4), bool)


def test_by_hand():
    # Ranks 2 1 3 4 against 1 2 3 4: 1 − 6 · (1 + 1) / (4 · 15) = .8.
    assert rank_correlation(np.array([[[5.0, 0, 7, 90]]]), REFERENCE, ALL) == pytest.approx(0.8)
    both = np.array([[[5.0, 0, 7, 90]], [[-1.0, -2, -3, -4]]])
    assert rank_correlation(both, REFERENCE, ALL) == pytest.approx((0.8 - 1) / 2)
    # Among the first two alone, the first ranking is the other way round.
    two = np.array([[True, True, False, False]])
    assert rank_correlation(both[:1], REFERENCE, two) == pytest.approx(-1)
    # Each class among units of its own: 1 3 4 in order, and 1 2 in the opposite one.
    own = np.array([[[True, False, True, True]], [[True, True, False, False]]])
    assert rank_correlation(both, REFERENCE, own) == pytest.approx((1 - 1) / 2)


def test_where_there_is_no_order():
    assert np.isnan(rank_correlation(np.ones((1, 1, 4)), REFERENCE, ALL))
    assert np.isnan(rank_correlation(REFERENCE[None], np.ones((1, 4)), ALL))
    one = np.array([[True, False, False, False]])
    assert np.isnan(rank_correlation(REFERENCE[None], REFERENCE, one))
