"""How much units add to the residual stream, and random units that add as much."""

import numpy as np

from cdjax.distillation.store import TeacherStore
from cdjax.evaluation.living import DEAD_BELOW

SWAPS = 2000  # that are tried, of each class and layer


def unit_contributions(store: TeacherStore, num_layers: int) -> np.ndarray:
    """Returns what the units of the stored layers add, float64 `[L, U]`, 0 in other layers.

    `sqrt(mean_n ‖(a_n - ā) W‖²)` of each unit: the deviation of its activation over the problems
    (and positions) times the length of its row of W, rows of its coordinates together. Units that
    are dead, of a deviation below a hundredth of the largest of their layer, add 0.

    Args:
        store: what the teacher says, with its output matrices.
        num_layers: L of the teacher.
    """
    found = None
    for place, layer in enumerate(store.layers):
        a = np.asarray(store.of_layers([layer])[:, 0], np.float64)
        W = store.outputs[place]
        behind = 0 if a.shape[-1] == len(W) else 1  # coordinates of a unit, those of a head
        a = a.reshape(-1, *a.shape[a.ndim - 1 - behind :])
        a = a - a.mean(axis=0)
        units = a.shape[1]
        norms = np.linalg.norm(W.astype(np.float64), axis=1).reshape(units, -1)
        squares = np.square(a).mean(axis=0).reshape(units, -1)
        deviations = np.sqrt(squares.sum(axis=1))
        adds = np.sqrt((squares * np.square(norms)).sum(axis=1))
        adds[deviations < DEAD_BELOW * deviations.max()] = 0
        found = np.zeros((num_layers, units)) if found is None else found
        found[layer] = adds
    return found


def contributed_part(
    masks: np.ndarray, circuits: np.ndarray, contribution: np.ndarray
) -> float | None:
    """Returns what units add together in parts of what circuits add, mean over classes.

    `sqrt(Σ_lu m_lu c_lu² / Σ_lu m'_lu c_lu²)` of each class. Classes whose circuit adds nothing are
    left out; None where that is all of them.

    Args:
        masks: bool `[K, L, U]`, m; `[1, L, U]` where classes share one.
        circuits: bool `[K, L, U]`, m'.
        contribution: float `[L, U]`, c, see `unit_contributions`.
    """
    squares = np.square(contribution)
    added, of_circuits = (np.where(part, squares, 0).sum(axis=(1, 2)) for part in (masks, circuits))
    counted = of_circuits > 0
    parts = np.broadcast_to(added, of_circuits.shape)[counted] / of_circuits[counted]
    return float(np.sqrt(parts).mean()) if counted.any() else None


def equally_contributing(masks: np.ndarray, contribution: np.ndarray, *, seed: int) -> np.ndarray:
    """Returns random units outside each circuit, as many of each layer, that add as much together.

    Units are drawn among the living, then one is exchanged for another, drawn too, wherever that
    brings the sum of their squared contributions nearer to that of the circuit. Where the circuit
    holds those that add most, no others add as much: `contributed_part` tells what was reached.

    Args:
        masks: bool `[K, L, U]`.
        contribution: float `[L, U]`, 0 for the dead, and in layers that do not count.
        seed: of the draw.

    Returns:
        bool `[K, L, U]`. Where too few living units are outside, the rest is drawn among the dead.
    """
    rng = np.random.default_rng(seed)
    squares = np.square(contribution)
    drawn = np.zeros(masks.shape, bool)
    for k, layer in np.ndindex(masks.shape[:2]):
        own, worth = masks[k, layer], squares[layer]
        outside = np.flatnonzero(~own)
        order = rng.permutation(outside)
        order = order[np.argsort(worth[order] == 0, kind='stable')]  # the living first
        size = min(int(own.sum()), len(outside))
        chosen, others = order[:size].copy(), order[size:]
        others = others[worth[others] > 0].copy()
        if size and len(others):
            gap = worth[chosen].sum() - worth[own].sum()
            for i, j in zip(
                rng.integers(size, size=SWAPS), rng.integers(len(others), size=SWAPS), strict=True
            ):
                moved = gap + worth[others[j]] - worth[chosen[i]]
                if abs(moved) < abs(gap):
                    chosen[i], others[j], gap = others[j], chosen[i], moved
        drawn[k, layer, chosen] = True
    return drawn
