"""A ground truth that is made by hand: 2 classes, 1 layer of 8 neurons, 6 problems."""

import numpy as np

from cdjax.planted.ground_truth import GroundTruth


def neurons(*indices):
    """Returns a mask of the one layer, bool [1, 8]."""
    return np.isin(np.arange(8), indices)[None]


def ground_truth(**changes):
    """Neuron 0 is shared; 1, 2 are of class 0 and 3, 4 of class 1; 2 is not needed; 7 is dead."""
    fields = {
        'shared': neurons(0),
        'specific': np.stack([neurons(1, 2), neurons(3, 4)]),
        'necessary': np.stack([neurons(0, 1), neurons(0, 3, 4)]),
        'living': ~neurons(7),
        'assignments': np.array([0, 0, 0, 1, 1, 1], np.int32),
        'info': {'model': 'm' * 16, 'data': 'd' * 64},
    }
    return GroundTruth(**fields | changes)
