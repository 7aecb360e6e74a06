"""How what a model says depends on each activation: gradients at a site, all layers at once."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.inference.predictions import logit_difference
from cdjax.inference.rows import map_rows
from cdjax.models import SITES, Capture, Edit, Llama
from cdjax.run.options import TOKENS_PER_PASS


def metric_gradients(
    model: Llama,
    rows: dict[str, jax.Array],
    *,
    site: str = 'neurons',
    edits: dict[str, Edit] | None = None,
    metric: Callable[[jax.Array, dict[str, jax.Array]], jax.Array] = logit_difference,
    remat: str = 'none',
    backward: str = 'gradient',
) -> tuple[jax.Array, jax.Array]:
    """Returns the activations of a batch, and the gradient of a metric with respect to them.

    One forward and one backward pass: the gradient is that of a shift of zeros in every layer. To
    be called within a function for `map_rows` or `mean_rows`, which says what is kept of it.

    Args:
        model: the model.
        rows: `tokens [B, T]`, `lengths [B]`, and what the metric reads.
        site: where the shift is.
        edits: edits in force, before the shift.
        metric: (logits `[B, V]` at the answer position, rows) -> one number a row `[B]`.
        remat: see `Llama`.
        backward: see `Llama`: with 'relp' the gradients are coefficients of relevance.

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
            logits_at=rows['lengths'] - 1,
            remat=remat,
            backward=backward,
        )
        return metric(logits, rows).sum(), activations[site]

    zeros = jnp.zeros((model.config.num_layers, batch, length, *SITES[site].shape(model.config)))
    gradients, activations = jax.grad(total, has_aux=True)(zeros)
    return activations, gradients


def activation_gradients(
    model: Llama,
    dataset: Dataset,
    *,
    site: str = 'neurons',
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each problem's activations and the gradient of its logit difference, on the host.

    All of them, `N · L · T · F` numbers each: of a large model reduce `metric_gradients` where
    they are computed.

    Args:
        model: the model.
        dataset: N problems.
        site: whose activations.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `rows_per_pass`; a backward pass keeps all activations of so many.
        description: shows a progress bar under this name.

    Returns:
        Activations in the model's dtype and gradients in float32, both `[N, L, T, ...]`.
    """
    rows = {
        'tokens': dataset.tokens,
        'lengths': dataset.lengths,
        'answers': dataset.answers,
        'counterfactual_answers': dataset.counterfactual_answers,
    }
    return map_rows(
        _gradient_rows(site),
        model,
        rows,
        mesh=mesh,
        tokens_per_pass=tokens_per_pass,
        description=description,
    )


@functools.cache
def _gradient_rows(site: str):
    """Returns the function that `map_rows` compiles, one and the same for a site."""

    def gradient_rows(model, rows):
        by_layer = metric_gradients(model, rows, site=site)
        return tuple(jnp.moveaxis(values, 1, 0) for values in by_layer)

    return gradient_rows
