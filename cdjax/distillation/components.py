"""Which parameters of a student belong to the components that are paired."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.models import SITES, Llama
from cdjax.parallel.mesh import path_name

# What of a student is trained: all of it, or what is paired alone (Wadhwa et al. 2025, arXiv
# 2509.25002).
TRAINED = ('all', 'paired')


def paired_components(params: Llama, alignment: Alignment) -> Any:
    """Returns 1 where a parameter is of a paired component, 0 elsewhere, as arrays that broadcast.

    A component is the part of a paired layer that computes the site: the MLP or the attention, the
    block where it is the stream. Where the student has circuits there, or single heads are paired,
    it is those units: of matrices that have one row or column for each (each coordinate of each),
    the others stand still.
    Layers are stacked in one array, so that `optax.masked`, which goes by whole arrays, could not
    say it.

    Args:
        params: the student, or its shapes.
        alignment: what is compared, before it is `placed`.

    Returns:
        A pytree like `params`, float32.
    """
    site = SITES[alignment.site]
    prefix = 'layers.' if site.module is None else f'layers.{site.module}.'
    layers = np.zeros(params.config.num_layers, np.float32)
    layers[list(alignment.student_layers)] = 1
    units_LxU = units = None
    if alignment.of_units:
        units_LxU = np.zeros((len(layers), site.units(params.config)), bool)
        units_LxU[list(alignment.student_layers), list(alignment.student_units)] = True
    elif alignment.student_masks is not None and site.module is not None:
        units_LxU = np.any(alignment.student_masks, axis=0)
    if units_LxU is not None:
        per_unit = int(np.prod(site.shape(params.config)[1:], dtype=int))
        units = np.repeat(units_LxU, per_unit, axis=1).astype(np.float32)

    def of_leaf(path, leaf):
        name = path_name(path)
        if not name.startswith(prefix):
            return jnp.zeros((1,) * leaf.ndim, jnp.float32)
        mask = layers.reshape(-1, *(1,) * (leaf.ndim - 1))
        if units is not None and leaf.ndim == 3:
            if name == f'{prefix}{site.output}.weight':
                mask = mask * units[:, :, None]
            elif leaf.shape[-1] == units.shape[-1] and site.output is not None:
                mask = mask * units[:, None]
        return jnp.asarray(mask)

    return jax.tree_util.tree_map_with_path(of_leaf, params)
