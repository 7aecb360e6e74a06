"""Attribution patching: the effect of ablating a unit, to first order, for all units at once."""

import jax

from cdjax.circuits.methods.attribution import attributions, batch_fill
from cdjax.inference.gradients import unit_gradients
from cdjax.models import Edit


def patching_effects(
    constants: dict, rows: dict, *, site: str, ablation: str, backward: str = 'gradient'
) -> jax.Array:
    """Returns `Σ_t (a - fill) · ∂m/∂a`, float32 `[B, L, U]`, with m the logit difference.

    AtP (Nanda 2023; Kramár et al., arXiv 2403.00745): minus what m changes by where the unit
    becomes what ablation puts in its place. One forward and one backward pass, and one more forward
    for the fill of counterfactual ablation.

    Args:
        constants: see `attribution`, like the others.
        rows: as there.
        site: as there.
        ablation: as there.
        backward: what takes the place of the gradient, see `cdjax.models.llama.BACKWARDS`.
    """
    fill = batch_fill(constants, rows, site=site, ablation=ablation)
    edit_of = lambda x: Edit(1 + x, center=fill)
    return unit_gradients(constants['model'], rows, edit_of, site=site, backward=backward)


def relp_effects(constants: dict, rows: dict, *, site: str, ablation: str) -> jax.Array:
    """Returns what `patching_effects` does, with coefficients of relevance in place of gradients.

    RelP (arXiv 2508.21258; for neurons arXiv 2601.22594).

    Args:
        constants: see `attribution`, like the others.
        rows: as there.
        site: as there.
        ablation: as there.
    """
    return patching_effects(constants, rows, site=site, ablation=ablation, backward='relp')


ATP = attributions('atp', 'AtP', 'attribution patching', 'ink', patching_effects)
RELP = attributions(
    'relp',
    'RelP',
    'relevance patching',
    'purple',
    relp_effects,
    line='dashed',
    by_default=False,
)
