"""What is registered can be shown, stored and run: names, classes, draws."""

import re

import numpy as np
import pytest

from cdjax.circuits.classes import CLASSES
from cdjax.circuits.methods import METHODS, RANDOM_MASKS, Method


@pytest.mark.parametrize('key', METHODS)
def test_every_method_can_be_shown_and_stored(key):
    method = METHODS[key]
    assert method.key == key
    assert re.fullmatch('[a-z0-9_]+', key), 'a flag, a folder, a key of JSON'
    assert method.title
    assert method.phrase
    assert method.classes in CLASSES
    assert (method.scores is None) != (method.draw is None)


def test_titles_are_told_apart():
    titles = [method.title for method in METHODS.values()]
    assert len(set(titles)) == len(titles)


def test_curves_are_told_apart():
    looks = [(method.colour, method.line) for method in METHODS.values()]
    assert len(set(looks)) == len(looks)
    with pytest.raises(ValueError, match="line='wavy': choose from solid, dashed"):
        Method('mine', 'mine', 'mine', 'blue', scores=print, line='wavy')


def test_a_method_scores_or_draws():
    for ways in ({}, {'scores': print, 'draw': print}):
        with pytest.raises(ValueError, match="'mine' needs either scores or draw"):
            Method('mine', 'mine', 'mine', 'blue', **ways)


def test_random_masks_are_many_and_like_the_circuits():
    assert RANDOM_MASKS.draws >= 10
    masks = np.random.default_rng(0).random((2, 2, 50)) < np.array([0.1, 0.5])[None, :, None]
    drawn = [
        RANDOM_MASKS.draw(masks, seed=seed, living=masks[0]) for seed in range(RANDOM_MASKS.draws)
    ]
    for other in drawn:
        np.testing.assert_array_equal(other.sum(-1), masks.sum(-1))
    assert len({other.tobytes() for other in drawn}) == len(drawn)
