"""Random masks: what as many neurons do, in the same layers, whichever they are."""

import numpy as np

from cdjax.circuits.masks import DRAWS, random_masks
from cdjax.circuits.methods.method import Method


def draw(masks: np.ndarray, *, seed: int, living: np.ndarray) -> np.ndarray:
    """Returns masks that have each circuit's number of neurons in each layer."""
    return random_masks(masks, seed=seed)


RANDOM_MASKS = Method(
    'random_masks',
    'random masks',
    'random masks',
    'grey',
    draw=draw,
    draws=DRAWS,
    line='dashed',
)
