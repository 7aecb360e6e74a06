"""A batch of the smallest size for what discovery minimises."""

import numpy as np

# One shape for all: a compilation costs more than all the arithmetic here.
N, K, L, F, V = 12, 3, 2, 6, 5
D = L * F
ALL = np.ones((K, D))  # masks that hold every neuron


def problem(seed=0, mean=0.0):
    """Random activations, one-hot classes of unequal size, masks, probabilities and logits."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(K), N)
    return {
        'a': mean + rng.normal(size=(N, D)),
        'z': np.repeat(np.eye(K), (5, 4, 3), axis=0),
        'm': rng.uniform(0.02, 0.98, (K, D)),
        'p': probabilities,
        'full': 3 * rng.normal(size=(N, V)),
        'circuit': 3 * rng.normal(size=(N, V)),
        'complement': 3 * rng.normal(size=(N, V)),
    }


def classes_of(*counts):
    """One-hot rows `[N, K]` with so many problems in each class."""
    return np.repeat(np.eye(K), counts, axis=0)
