"""Random masks among the living: what as many neurons do that the model has a use for.

Most neurons of a model may be dead, and most of a random mask is then. A circuit that only avoids
the dead is far better than random masks, and no better than these.
"""

import numpy as np

from cdjax.circuits.masks import DRAWS, random_masks
from cdjax.circuits.methods.method import Method


def draw(masks: np.ndarray, *, seed: int, living: np.ndarray) -> np.ndarray:
    """Returns masks that have each circuit's number of neurons in each layer.

    They are living ones as far as the layer has any; where a circuit is larger, all of them and
    dead ones beside.
    """
    return random_masks(masks, seed=seed, living=living)


RANDOM_LIVING_MASKS = Method(
    'random_living_masks',
    'random living masks',
    'random masks among the living neurons',
    'grey',
    draw=draw,
    draws=DRAWS,
    line='dotted',
)
