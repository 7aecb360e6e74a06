"""AtP with GradDrop: attribution patching whose paths through a model's layers cannot cancel."""

import jax
import jax.numpy as jnp

from cdjax.circuits.methods.attribution import (
    attributions,
    batch_fill,
    check_counterfactuals,
)
from cdjax.circuits.methods.method import Request
from cdjax.errors import InputError
from cdjax.inference.gradients import no_effects, unit_gradients
from cdjax.models import Edit

# What a layer adds to the residual stream.
_CONTRIBUTIONS = ('attention_out', 'mlp_out')

KEY = 'atp_grad_drop'


def grad_drop_effects(constants: dict, rows: dict, *, site: str, ablation: str) -> jax.Array:
    """Returns `1/(L-1) Σ_l |Σ_t (a - fill) · ∂_l m/∂a|`, float32 `[B, L, U]`.

    GradDrop of AtP* (Kramár et al., arXiv 2403.00745): `∂_l` is the gradient without what comes
    through the contribution of layer l to the residual stream. A direct effect and one through a
    later layer, which may cancel in the gradient, are told apart so. L backward passes; a unit's
    own layer gives it nothing. Of two layers the other one is all that can be dropped, so that what
    is left of the first layer's effects are those on the logits directly.

    Args:
        constants: see `attribution`, like the others.
        rows: as there.
        site: as there.
        ablation: as there.
    """
    model, layers = constants['model'], constants['model'].config.num_layers
    check_layers(layers)
    contributions = model(rows['tokens'], capture=_CONTRIBUTIONS, logits_at=())[1]
    fill = batch_fill(constants, rows, site=site, ablation=ablation)
    edit_of = lambda x: Edit(1 + x, center=fill)

    def add(total, layer):
        kept = (jnp.arange(layers) != layer).astype(jnp.float32)
        kept_Lx1x1x1 = kept[:, None, None, None]
        edits = {name: Edit(kept_Lx1x1x1, center=value) for name, value in contributions.items()}
        effects = unit_gradients(model, rows, edit_of, site=site, edits=edits)
        return total + jnp.abs(effects) * kept[None, :, None], None

    total, _ = jax.lax.scan(add, no_effects(model, rows, site), jnp.arange(layers))
    return total / (layers - 1)


def check_layers(layers: int, key: str = KEY) -> None:
    """Raises InputError for a model of one layer, of which there is no other to drop.

    Args:
        layers: of the model.
        key: of the method.
    """
    if layers < 2:
        raise InputError(
            f'methods={key} drops the other layers in turn, and the model has one: take '
            'atp, which is the same then'
        )


def _check(key: str, request: Request) -> None:
    check_counterfactuals(key, request)
    check_layers(request.shape.num_layers, key)


GRAD_DROP = attributions(
    KEY,
    'AtP + GradDrop',
    'attribution patching with GradDrop',
    'ink',
    grad_drop_effects,
    averages=('absolute', 'rms'),  # of absolute values already
    check=_check,
    line='dashed',
    by_default=False,
)
