"""Ablation: what is left of the model when only a circuit may act."""

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.models import SITES, Edit
from cdjax.models.positions import Positions

# What an ablated unit becomes: 0, its mean over the data (one value for each position), its mean
# over the data and all positions, or its value on the counterfactual prompt.
ABLATIONS = ('zero', 'mean', 'overall_mean', 'counterfactual')


def fill_of(ablation: str, means: np.ndarray) -> np.ndarray | None:
    """Returns what ablation by a mean puts in place of the units, None for the other ablations.

    Args:
        ablation: one of `ABLATIONS`.
        means: float `[L, T, U, ...]`, of each unit at each position.

    Returns:
        float32 `[L, T, U, ...]`; of 'overall_mean' the same at all positions.
    """
    if ablation not in ('mean', 'overall_mean'):
        return None
    means = np.asarray(means, np.float32)
    if ablation == 'mean':
        return means
    return np.broadcast_to(means.mean(axis=1, keepdims=True), means.shape)


def keep_only(
    masks_BxLxU: jax.Array,
    fill: float | jax.Array | None,
    site: str = 'neurons',
    positions: Positions | None = None,
) -> Edit:
    """Returns the edit of a site that leaves a circuit and ablates the rest.

    `x -> m * x + (1 - m) * fill`; with `1 - masks` it ablates the circuit instead.

    Args:
        masks_BxLxU: one mask for each row, or one row for all: 1 for the units that stay.
        fill: what the others become, a number or an array that broadcasts to `[L, B, T, U, ...]`;
            zero if None.
        site: whose units the masks count, see `cdjax.models.Site`: neurons, heads, or coordinates
            of a stream.
        positions: where they are ablated, as in `Edit`; everywhere if None.
    """
    scale = jnp.swapaxes(masks_BxLxU, 0, 1)[:, :, None]
    behind = len(SITES[site].axes) - 1  # axes within a unit, such as those of a head
    scale = scale.reshape(*scale.shape, *(1,) * behind)
    return Edit(scale, center=fill, positions=positions)
