"""Activations weighted by what the prediction owes to them: gradient times activation."""

import jax
import jax.numpy as jnp

from cdjax.distillation.readings.reading import Reading
from cdjax.inference.activations import answer_activations
from cdjax.inference.attribution_vectors import own_prediction
from cdjax.inference.gradients import metric_gradients
from cdjax.models.positions import take_positions


def read_attributions(
    model, tokens, lengths, *, site, layers=None, positions=None, answer_tokens=1, **options
) -> tuple[jax.Array, jax.Array]:
    """Reads `a ⊙ ∂m/∂a`, m the model's largest logit minus its mean logit.

    Of the right answer nothing is read; of several tokens m is of the first. The gradient is a
    weight, and held fixed: a student is trained in its activations, not in how its prediction
    depends on them. A second pass of the model, forwards and backwards.
    """
    where = {'site': site, 'layers': layers, 'positions': positions}
    logits, activations = answer_activations(
        model, tokens, lengths, **where, answer_tokens=answer_tokens, **options
    )
    rows = {'tokens': tokens, 'lengths': lengths}
    fixed = jax.lax.stop_gradient(model)
    _, gradients = metric_gradients(fixed, rows, site=site, metric=own_prediction, **options)
    gradients = gradients if layers is None else gradients[jnp.asarray(layers)]
    at = lengths - 1 if positions is None else positions
    taken = jnp.swapaxes(jax.vmap(lambda of_layer: take_positions(of_layer, at))(gradients), 0, 1)
    taken = taken[:, :, 0] if positions is None else taken
    return logits, activations * taken.astype(activations.dtype)


ATTRIBUTIONS = Reading(
    'attributions', 'activations, weighted by what the prediction owes to them', read_attributions
)
