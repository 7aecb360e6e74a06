"""How what a model says depends on each activation: gradients at a site, all layers at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cdjax.inference.predictions import answer_columns, logit_difference
from cdjax.models import SITES, Capture, Edit, Llama


def metric_gradients(
    model: Llama,
    rows: dict[str, jax.Array],
    *,
    site: str = 'neurons',
    edits: dict[str, Edit] | None = None,
    metric: Callable[[jax.Array, dict[str, jax.Array]], jax.Array] = logit_difference,
    remat: str = 'none',
    backward: str = 'gradient',
    dtype=None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the activations of a batch, and the gradient of a metric with respect to them.

    One forward and one backward pass: the gradient is that of a shift of zeros in every layer. To
    be called within a function for `map_rows` or `mean_rows`, which says what is kept of it.

    Args:
        model: the model.
        rows: `tokens [B, T]`, `lengths [B]`, and what the metric reads; without `answers` it is
            given the logits of their first token.
        site: where the shift is.
        edits: edits in force, before the shift.
        metric: (logits `[B, V]` or `[B, A, V]` at the answer, rows) -> one number a row `[B]`.
        remat: see `Llama`.
        backward: see `Llama`: with 'relp' the gradients are coefficients of relevance.
        dtype: see `Llama`.

    Returns:
        Activations, after the edits, in the dtype of the computation, and gradients, float32;
        both `[L, B, T, ...]`.
    """
    batch, length = rows['tokens'].shape
    edits = edits or {}

    def total(shift):
        shifted = edits.get(site, Edit()).then(Edit(shift=shift))
        logits, activations = model(
            rows['tokens'],
            edits={**edits, site: shifted},
            capture=(Capture(site),),
            logits_at=answer_columns(rows) if 'answers' in rows else rows['lengths'] - 1,
            remat=remat,
            backward=backward,
            dtype=dtype,
        )
        return metric(logits, rows).sum(), activations[site]

    zeros = jnp.zeros((model.config.num_layers, batch, length, *SITES[site].shape(model.config)))
    gradients, activations = jax.grad(total, has_aux=True)(zeros)
    return activations, gradients


def unit_gradients(
    model: Llama,
    rows: dict[str, jax.Array],
    edit_of: Callable[[jax.Array], Edit],
    *,
    site: str = 'neurons',
    edits: dict[str, Edit] | None = None,
    backward: str = 'gradient',
) -> jax.Array:
    """Returns the gradient of the logit difference to one number of each unit, float32 `[B, L, U]`.

    The number is the same at all positions: `edit_of = lambda x: Edit(1 + x, center=fill)` gives
    `Σ_t (a - fill) · ∂m/∂a`, what `metric_gradients` returns times a - fill, summed over positions
    and coordinates. No activations are asked for, so that the last layer of a model whose layers
    are compiled one by one runs only where logits are read: elsewhere its gradient is zero. It is
    right to the rounding of `Σ_t a · ∂m/∂a` and `Σ_t fill · ∂m/∂a`, of which it is the difference.

    Args:
        model: the model.
        rows: as for `metric_gradients`, with `answers`.
        edit_of: x, zeros `[L, B, 1, U, ...]` of the rank of the site, → an edit of it.
        site: whose units.
        edits: edits in force, before that one.
        backward: see `Llama`.
    """
    c, what, edits = model.config, SITES[site], edits or {}
    units = c.num_layers, len(rows['tokens']), what.units(c)

    def total(x):
        edit = edits.get(site, Edit()).then(edit_of(x))
        logits, _ = model(
            rows['tokens'],
            edits={**edits, site: edit},
            logits_at=answer_columns(rows),
            backward=backward,
        )
        return logit_difference(logits, rows).sum()

    zeros = jnp.zeros((*units[:2], 1, units[2], *(1,) * (len(what.axes) - 1)))
    return jnp.moveaxis(jax.grad(total)(zeros).reshape(units), 1, 0)


def no_effects(model: Llama, rows: dict[str, jax.Array], site: str) -> jax.Array:
    """Returns zeros like what `unit_gradients` returns, to add to."""
    c = model.config
    return jnp.zeros((len(rows['tokens']), c.num_layers, SITES[site].units(c)))
