import numpy as np
import pytest

from cdjax.circuits.masks import binarize
from cdjax.evaluation.minimality import drop, needless_share, without_blocks


def test_blocks_by_hand():
    scores = np.array([[[3.0, 9, 1, 7, 5]], [[1.0, 2, 3, 4, 5]]])
    masks = binarize(scores, 4)
    less = without_blocks(scores, masks, blocks=2)
    # Class 0 holds neurons 1, 3, 4 and 0 in this order, class 1 4, 3, 2 and 1.
    expected = [
        [[[1, 0, 0, 0, 1]], [[0, 1, 1, 0, 0]]],
        [[[0, 1, 0, 1, 0]], [[0, 0, 0, 1, 1]]],
    ]
    np.testing.assert_array_equal(less, np.array(expected, bool))


def test_each_neuron_is_in_one_block():
    scores = np.random.default_rng(0).random((3, 2, 40))
    masks = binarize(scores, 37)
    less = without_blocks(scores, masks)
    removed = masks[None] & ~less
    np.testing.assert_array_equal(removed.sum(axis=0), masks)
    assert set(removed.sum(axis=(2, 3)).ravel()) == {3, 4}
    assert len(without_blocks(scores, binarize(scores, 4))) == 4, 'no block is empty'


def test_needless_by_hand():
    assert needless_share(np.array([0.3, 0.005, -0.2]), np.array([3, 4, 1])) == 5 / 8
    assert needless_share(np.array([0.01]), np.array([3])) == 0
    fall, (low, high) = drop(np.array([0.5, 0.9]), np.array([0.25, 0.65]))
    assert (fall, low, high) == pytest.approx((0.25, 0.25, 0.25))
