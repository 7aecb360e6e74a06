import numpy as np
import pytest

from cdjax.circuits.masks import random_masks
from cdjax.evaluation.living import chance_overlap, dead_share, living_neurons, overlap_among


def test_the_living_by_hand():
    # Layer 0: the largest deviation is 2, at position 1. Layer 1 does not vary at all.
    deviations = np.array(
        [[[0.0, 0.019, 0.021, 1.0], [0.0, 0.001, 0.0, 2.0]], [[0.0] * 4, [0.0] * 4]]
    )
    living = living_neurons(deviations)
    np.testing.assert_array_equal(living, [[False, False, True, True], [False] * 4])
    np.testing.assert_array_equal(living_neurons(1e6 * deviations), living, 'a matter of scale')
    assert living_neurons(deviations, dead_below=0.6).sum() == 1


def test_shares_and_overlaps_by_hand():
    living = np.array([[1, 1, 1, 0, 0, 0]], bool)
    masks = np.array([[[1, 1, 0, 1, 0, 0]], [[0, 1, 1, 1, 1, 1]]], bool)
    assert dead_share(masks, living) == 4 / 8
    assert dead_share(np.zeros_like(masks), living) == 0
    # One living neuron in common of three; the dead one in common does not count.
    np.testing.assert_allclose(overlap_among(masks, living), [[1, 1 / 3], [1 / 3, 1]])
    # Two of three each: 4/3 in common are expected, of 8/3.
    np.testing.assert_allclose(chance_overlap(masks, living), np.full((2, 2), 0.5))


def test_chance_is_what_random_living_masks_have_in_common():
    rng = np.random.default_rng(0)
    living = rng.random((2, 300)) < [[0.2], [0.6]]
    masks = random_masks(
        np.stack([np.arange(300) < n for n in (20, 40, 50, 90)]).reshape(2, 2, 300),
        seed=0,
        living=living,
    )
    first, second = (random_masks(masks, seed=s, living=living) for s in (1, 2))
    both = np.concatenate([first, second])
    found = overlap_among(both, living)[:2, 2:]
    np.testing.assert_allclose(found, chance_overlap(masks, living), atol=0.05)


def test_random_masks_prefer_the_living():
    living = np.arange(10)[None] < 4
    few, many = (np.arange(10)[None, None] < n for n in (3, 6))
    for seed in range(5):
        assert not (random_masks(few, seed=seed, living=living) & ~living).any()
        drawn = random_masks(many, seed=seed, living=living)
        assert drawn.sum() == 6
        assert (drawn & living).sum() == 4
    hits = sum(random_masks(few, seed=seed, living=living)[0, 0] for seed in range(400))
    np.testing.assert_allclose(hits[:4] / 400, 0.75, atol=0.07)


def test_empty_circuits_have_nothing_in_common():
    nothing = np.zeros((2, 1, 3), bool)
    np.testing.assert_array_equal(overlap_among(nothing, np.ones((1, 3), bool)), np.zeros((2, 2)))
    assert chance_overlap(nothing, np.zeros((1, 3), bool)) == pytest.approx(np.zeros((2, 2)))
