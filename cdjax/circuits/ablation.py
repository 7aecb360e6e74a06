"""Ablation of neurons: what is left of the model when only a circuit may act."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.errors import InputError
from cdjax.models import SITES, Edit, Llama
from cdjax.models.positions import Positions
from cdjax.parallel.batching import mean_rows

# What an ablated neuron becomes: 0, its mean over the data (one value for each position), or its
# value on the counterfactual prompt.
ABLATIONS = ('zero', 'mean', 'counterfactual')


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


def neuron_means(
    model: Llama, dataset: Dataset, *, mesh: Mesh, batch_size: int = 512
) -> np.ndarray:
    """Returns the mean activation of each neuron at each position, float32 `[L, T, F]`.

    It is what mean ablation puts in place of a neuron.

    Raises:
        InputError: prompts of different lengths, whose positions would mix tokens and padding.
    """
    check_one_length(dataset)
    return mean_rows(_neurons, model, {'tokens': dataset.tokens}, mesh=mesh, batch_size=batch_size)


def check_one_length(dataset: Dataset) -> None:
    """Raises InputError for prompts of several lengths, which have no mean at a position."""
    shortest, longest = dataset.lengths.min(), dataset.lengths.max()
    if shortest != longest:
        raise InputError(
            f'prompts of {shortest} to {longest} tokens have no mean activation at a position, '
            'which ablation puts in place of a neuron: give problems whose prompts have one length'
        )


def _neurons(model, rows):
    _, activations = model(rows['tokens'], capture=('neurons',), logits_at=-1)
    return jnp.moveaxis(activations['neurons'].astype(jnp.float32), 1, 0)
