"""Random masks: what as many neurons do, in the same layers, whichever they are."""

from cdjax.circuits.masks import random_masks
from cdjax.circuits.methods.method import Method

# One draw in ten is enough to see how much draws differ; the interval covers that.
RANDOM_MASKS = Method(
    'random_masks',
    'random masks',
    'random masks',
    'grey',
    draw=random_masks,
    draws=10,
    line='dashed',
)
