"""Integrated gradients: effects over the whole of a path, where a gradient knows its end only.

Integrals are sums over the middles of `STEPS` equal parts of the path (Sundararajan et al. 2017).
"""

import jax
import jax.numpy as jnp

from cdjax.circuits.methods.attribution import attributions, batch_fill
from cdjax.inference.gradients import no_effects, unit_gradients
from cdjax.models import Capture, Edit
from cdjax.models.sites import RESIDUAL

STEPS = 8


def _middles():
    return (jnp.arange(STEPS, dtype=jnp.float32) + 0.5) / STEPS


def activation_effects(constants: dict, rows: dict, *, site: str, ablation: str) -> jax.Array:
    """Returns `Σ_t (a - fill) · mean_α ∂m/∂a` at `fill + α (a - fill)`, float32 `[B, L, U]`.

    The path of one layer at a time, all of its units together, from what ablation puts in their
    place to what they are (arXiv 2403.19647, 2504.13151): the effects of a layer sum to what m
    loses where the layer is ablated. L · STEPS backward passes.

    Args:
        constants: see `attribution`, like the others.
        rows: as there.
        site: as there.
        ablation: as there.
    """
    model, layers = constants['model'], constants['model'].config.num_layers
    clean = model(rows['tokens'], capture=(Capture(site),), logits_at=())[1][site]
    fill = batch_fill(constants, rows, site=site, ablation=ablation)
    removed = clean.astype(jnp.float32) - fill
    of_layer = lambda chosen: chosen.reshape(layers, *(1,) * (clean.ndim - 1))

    def add(total, point):
        layer, alpha = point
        here = of_layer((jnp.arange(layers) == layer).astype(jnp.float32))
        edit_of = lambda x: Edit(1 - here, center=fill + (alpha + x) * removed)
        return total + unit_gradients(model, rows, edit_of, site=site), None

    points = jnp.repeat(jnp.arange(layers), STEPS), jnp.tile(_middles(), layers)
    total, _ = jax.lax.scan(add, no_effects(model, rows, site), points)
    return total / STEPS


def gate_effects(constants: dict, rows: dict, *, site: str, ablation: str) -> jax.Array:
    """Returns `∫ ∂m/∂g dα` of the gate g of each unit at g = α for all, float32 `[B, L, U]`.

    A unit with gate g is `fill + g (a - fill)`. The path leads from the model with all units
    ablated to the whole model, through what is in between when a circuit is cut out: the effects of
    all units sum to `m(whole) - m(none)`, what faithfulness is measured by. STEPS backward passes.

    Args:
        constants: see `attribution`, like the others.
        rows: as there.
        site: as there.
        ablation: as there.
    """
    model = constants['model']
    fill = batch_fill(constants, rows, site=site, ablation=ablation)

    def add(total, alpha):
        edit_of = lambda x: Edit(alpha + x, center=fill)
        return total + unit_gradients(model, rows, edit_of, site=site), None

    total, _ = jax.lax.scan(add, no_effects(model, rows, site), _middles())
    return total / STEPS


def input_effects(constants: dict, rows: dict, *, site: str, ablation: str) -> jax.Array:
    """Returns `Σ_t (a - fill) · mean_α ∂m/∂a` over the embeddings' path, float32 `[B, L, U]`.

    The embeddings lead from those of the counterfactual prompt to those of the problem, and the
    activations follow (EAP-IG, Hanna et al., arXiv 2403.17806). STEPS backward passes.

    Args:
        constants: see `attribution`, like the others.
        rows: as there.
        site: as there.
        ablation: as there.
    """
    model, layers = constants['model'], constants['model'].config.num_layers
    read = lambda tokens, what: model(tokens, capture=(what,), logits_at=())[1][what.site]
    embeddings = Capture(RESIDUAL.key, (0,))
    at_problem, at_counterfactual = (
        read(rows[name], embeddings).astype(jnp.float32)
        for name in ('tokens', 'counterfactual_tokens')
    )
    clean = read(rows['tokens'], Capture(site)).astype(jnp.float32)
    removed = clean - batch_fill(constants, rows, site=site, ablation=ablation)
    behind_Lx1x1x1 = jnp.minimum(jnp.arange(layers, dtype=jnp.float32), 1)[:, None, None, None]

    def add(total, alpha):
        center = at_counterfactual + alpha * (at_problem - at_counterfactual)
        edits = {RESIDUAL.key: Edit(behind_Lx1x1x1, center=center)}
        edit_of = lambda x: Edit(shift=x * removed)
        return total + unit_gradients(model, rows, edit_of, site=site, edits=edits), None

    total, _ = jax.lax.scan(add, no_effects(model, rows, site), _middles())
    return total / STEPS


INTEGRATED_GRADIENTS = attributions(
    'integrated_gradients',
    'integrated gradients',
    'integrated gradients of the activations',
    'green',
    activation_effects,
    line='dashed',
)
INTEGRATED_GATES = attributions(
    'integrated_gates',
    'integrated gradients, gates',
    'integrated gradients of the gates',
    'green',
    gate_effects,
    line='dotted',
    by_default=False,
)
INTEGRATED_INPUTS = attributions(
    'integrated_inputs',
    'integrated gradients, inputs',
    'integrated gradients over the inputs',
    'green',
    input_effects,
    line='dashdot',
    by_default=False,
)
