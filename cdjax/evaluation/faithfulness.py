"""MIB-style faithfulness of circuits (Mueller et al., arXiv 2504.13151).

`f(C) = (m(C) - m(none)) / (m(full) - m(none))`, each m a mean over problems of the logit of the
answer minus the logit of the counterfactual answer; `none` has every neuron ablated and attention
live. MIB's leaderboard counts coordinates of the residual stream, hence "MIB-style".
"""

import dataclasses

import numpy as np

from cdjax.errors import InputError
from cdjax.evaluation.statistics import percentile_interval, resampled_means

# Nominal sizes of the circuits of a curve, as shares of all neurons.
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def faithfulness(circuit: float, none: float, full: float) -> float:
    """Returns f of one circuit from three mean logit differences.

    Raises:
        InputError: the full model is no better than the empty circuit, so f has no meaning.
    """
    if abs(full - none) < 1e-3:
        raise InputError(
            f'the full model (mean logit difference {full:.4g}) does as well as the empty circuit '
            f'({none:.4g}): faithfulness is not defined on these problems'
        )
    return (circuit - none) / (full - none)


def area_under_faithfulness(sizes: np.ndarray, values: np.ndarray) -> float:
    """Returns CPR, the trapezoid of f over sizes: for circuits ranked by signed score."""
    return float(np.trapezoid(values, sizes))


def area_from_one(sizes: np.ndarray, values: np.ndarray) -> float:
    """Returns CMD, the trapezoid of |1 - f| over sizes: for circuits ranked by |score|."""
    return float(np.trapezoid(np.abs(1 - np.asarray(values)), sizes))


@dataclasses.dataclass(frozen=True)
class Areas:
    """The areas of one curve of faithfulness, with 95 % bootstrap intervals.

    Attributes:
        cpr: see `area_under_faithfulness`.
        cpr_interval: over problems, and draws of masks.
        cmd: see `area_from_one`.
        cmd_interval: likewise.
    """

    cpr: float
    cpr_interval: tuple[float, float]
    cmd: float
    cmd_interval: tuple[float, float]


def areas(
    sizes: np.ndarray,
    circuit: np.ndarray,
    none: np.ndarray,
    full: np.ndarray,
    groups: np.ndarray | None = None,
) -> Areas:
    """Returns CPR and CMD of circuits of several sizes.

    A resample takes the same problems at every size and at both ends, so that what makes a problem
    easy for all of them widens no interval.

    Args:
        sizes: `[S]`, nominal shares of the neurons, ascending.
        circuit: `[S, N]`, logit differences with only the circuit.
        none: `[N]`, logit differences without neurons.
        full: `[N]`, those of the whole model.
        groups: int `[N]`, the draw of masks that each problem was measured with; None if given.

    Raises:
        InputError: see `faithfulness`.
    """
    middle = np.array([faithfulness(m, none.mean(), full.mean()) for m in circuit.mean(axis=1)])
    low, high = resampled_means(np.stack([none, full]), groups).T[:, :, None]
    values_SxZ = (resampled_means(circuit, groups) - low) / (high - low)
    of_samples = {
        area: np.array([area(sizes, values) for values in values_SxZ])
        for area in (area_under_faithfulness, area_from_one)
    }
    return Areas(
        area_under_faithfulness(sizes, middle),
        percentile_interval(of_samples[area_under_faithfulness]),
        area_from_one(sizes, middle),
        percentile_interval(of_samples[area_from_one]),
    )
