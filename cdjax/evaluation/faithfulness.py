"""MIB-style faithfulness of circuits (Mueller et al., arXiv 2504.13151).

`f(C) = (m(C) - m(none)) / (m(full) - m(none))`, each m a mean over problems of the logit of the
answer minus the logit of the counterfactual answer; `none` has every neuron ablated and attention
live. MIB's leaderboard counts coordinates of the residual stream, hence "MIB-style".
"""

import dataclasses

import numpy as np

from cdjax.errors import InputError
from cdjax.evaluation.statistics import (
    joint_interval,
    percentile_interval,
    resampled_means,
    student_interval,
)

# Nominal sizes of the circuits of a curve, as shares of all neurons.
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Logits by which the whole model has to do better than the empty circuit.
LEAST_RANGE = 1e-3


def faithfulness(circuit: float, none: float, full: float) -> float:
    """Returns f of one circuit from three mean logit differences.

    Raises:
        InputError: the full model is no better than the empty circuit, so f has no meaning.
    """
    if abs(full - none) < LEAST_RANGE:
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
        cpr_interval: over problems, and draws of masks or seeds.
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
    middle = _areas_between(sizes, circuit, none, full)
    spread = _resampled_areas(sizes, circuit, none, full, groups)
    cpr, cmd = (percentile_interval(samples) for samples in spread.T)
    return Areas(middle[0], cpr, middle[1], cmd)


def areas_over_seeds(
    sizes: np.ndarray, circuit: np.ndarray, none: np.ndarray, full: np.ndarray
) -> Areas:
    """Returns the mean CPR and CMD of several seeds, whose intervals are over seeds and problems.

    Half of an interval is the root of two squares: of half of Student's over the seeds, and of
    half of the bootstrap's over problems, which are the same for all seeds.

    Args:
        sizes: see `areas`.
        circuit: `[Z, S, N]`, logit differences with only the circuit of each of Z seeds.
        none: see `areas`.
        full: see `areas`.

    Raises:
        InputError: see `faithfulness`.
    """
    found_Zx2 = np.array([_areas_between(sizes, of_seed, none, full) for of_seed in circuit])
    spread_Rx2 = np.mean([_resampled_areas(sizes, of, none, full) for of in circuit], axis=0)
    parts = []
    for of_seeds, of_problems in zip(found_Zx2.T, spread_Rx2.T, strict=True):
        mean = float(of_seeds.mean())
        over = student_interval(of_seeds), percentile_interval(of_problems)
        parts += [mean, joint_interval(mean, *over)]
    return Areas(*parts)


def _areas_between(
    sizes: np.ndarray, circuit: np.ndarray, none: np.ndarray, full: np.ndarray
) -> tuple[float, float]:
    """Returns CPR and CMD."""
    values = [faithfulness(m, none.mean(), full.mean()) for m in circuit.mean(axis=1)]
    return area_under_faithfulness(sizes, values), area_from_one(sizes, values)


def _resampled_areas(
    sizes: np.ndarray,
    circuit: np.ndarray,
    none: np.ndarray,
    full: np.ndarray,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Returns CPR and CMD of resampled problems, `[samples, 2]`, the same for all circuits.

    NaN where the resampled model does as well without neurons.
    """
    low, high = resampled_means(np.stack([none, full]), groups).T[:, :, None]
    range_Rx1 = np.where(np.abs(high - low) < LEAST_RANGE, np.nan, high - low)
    values_RxS = (resampled_means(circuit, groups) - low) / range_Rx1
    return np.array(
        [(area_under_faithfulness(sizes, v), area_from_one(sizes, v)) for v in values_RxS]
    )
