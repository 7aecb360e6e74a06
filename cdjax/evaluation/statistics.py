"""How far the mean of a few measurements can be trusted."""

import numpy as np


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of the mean of `values` `[N]`.

    Args:
        values: one number for each problem (or for each seed).
        level: coverage, in (0, 1).
        samples: resamples.
        seed: of the resampling.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(samples)])
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
