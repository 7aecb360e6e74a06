"""Classes by expectation maximisation: every problem goes to the circuit that does it best."""

from collections.abc import Callable

import numpy as np

ROUNDS = 4


def refined_classes(
    first: np.ndarray,
    divergences: Callable[[np.ndarray, int], np.ndarray],
    *,
    rounds: int = ROUNDS,
) -> np.ndarray:
    """Returns classes after so many rounds of hard expectation maximisation, int32 `[N]`.

    The M step trains a mask for each class; the E step gives every problem to the circuit whose
    answer diverges least from the model's own (classification EM, Celeux & Govaert 1992). Of the
    answer nothing is read, but what the model says is, and where it is right the classes tell of
    it. Stops where no problem changes its class.

    Args:
        first: int `[N]`, of K classes, what the first masks are trained for.
        divergences: `(classes, round) -> float [N, K]`, both steps: trains masks for the classes,
            and returns the divergence of each problem under each circuit.
        rounds: at most.
    """
    classes = np.asarray(first, np.int32)
    for at in range(rounds):
        found = divergences(classes, at).argmin(axis=1).astype(np.int32)
        if (found == classes).all():
            break
        classes = _without_gaps(found)
    return classes


def _without_gaps(classes: np.ndarray) -> np.ndarray:
    """Returns classes numbered anew, without those that no problem is left in."""
    return np.unique(classes, return_inverse=True)[1].astype(np.int32)
