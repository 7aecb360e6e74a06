import numpy as np
import pytest

from cdjax.circuits.masks import random_masks
from cdjax.evaluation.matching import chance_of_matching, matched_overlap

ALIVE = np.ones((1, 6), bool)
MASKS = np.array([[[1, 1, 0, 0, 0, 0]], [[0, 0, 1, 1, 0, 0]]], bool)


def test_matched_by_hand():
    assert matched_overlap(MASKS, MASKS[::-1], ALIVE) == 1, 'the order of the classes is no matter'
    other = np.array([[[0, 0, 0, 1, 1, 0]], [[1, 1, 0, 0, 0, 0]]], bool)
    # {0, 1} with itself, {2, 3} with {3, 4}: one of three in common.
    assert matched_overlap(MASKS, other, ALIVE) == pytest.approx((1 + 1 / 3) / 2)
    living = ALIVE & (np.arange(6) != 4)
    assert matched_overlap(MASKS, other, living) == pytest.approx((1 + 1 / 2) / 2)
    # Three circuits against two: the best two matches.
    assert matched_overlap(MASKS, np.concatenate([other, MASKS[1:]]), ALIVE) == 1


def test_chance_is_that_of_matched_random_circuits():
    living = np.tile(np.arange(200) % 2 == 0, (2, 1))  # 100 of each layer
    masks = random_masks(np.arange(200) < np.array([[[20]], [[20]], [[20]]]).repeat(2, 1), seed=0)
    found = chance_of_matching(masks, masks, living, draws=40)
    unmatched = 2 * 20 * 20 / 100 / (2 * 40 - 2 * 20 * 20 / 100)
    assert unmatched < found < 2.2 * unmatched, 'the best match is better than any'
    one = chance_of_matching(masks[:1], masks[:1], living, draws=200)
    assert one == pytest.approx(unmatched, rel=0.12)
