"""Root-mean-square deviation: the neurons that differ most from what ablation puts in place."""

import functools

import jax.numpy as jnp
import numpy as np

from cdjax.circuits.methods.attribution import device_constants, per_unit
from cdjax.circuits.methods.class_scores import average_by_class
from cdjax.circuits.methods.method import Context, Method
from cdjax.data import Dataset
from cdjax.data.token_rows import counted_columns
from cdjax.inference.activations import answer_activations
from cdjax.models import Capture, Llama


def deviation(
    model: Llama,
    dataset: Dataset,
    rows: np.ndarray,
    classes: np.ndarray,
    *,
    context: Context,
    everywhere: bool,
) -> np.ndarray:
    """Scores units by `sqrt(mean_i Σ_t |a - ā_t|²)` over the problems of each class.

    ā_t is the mean over all problems at position t, whatever the class and the ablation in force.

    Args:
        model: see `Scores`, like the others.
        dataset: as there.
        rows: as there.
        classes: as there.
        context: as there.
        everywhere: t runs over all positions of the prompt; else over the answer's alone.
    """
    function = _squares(context.site, everywhere)
    constants = device_constants(model, context, 'mean')
    return np.sqrt(average_by_class(function, constants, dataset, rows, classes, context))


@functools.cache
def _squares(site: str, everywhere: bool):
    def everywhere_squares(constants, rows):
        found = constants['model'](rows['tokens'], capture=(Capture(site),), logits_at=())[1][site]
        squares = jnp.square(found.astype(jnp.float32) - constants['fill'][:, None])
        seen_BxT = counted_columns(rows['tokens'])
        if seen_BxT is None:
            seen_BxT = jnp.arange(squares.shape[2])[None, :] < rows['lengths'][:, None]
        seen = seen_BxT.reshape(1, *seen_BxT.shape, *(1,) * (squares.ndim - 3))
        return per_unit(jnp.where(seen, squares, 0.0), site)

    def answer_squares(constants, rows):
        model, lengths = constants['model'], rows['lengths']
        _, taken = answer_activations(model, rows['tokens'], lengths, site=site)
        fill = jnp.moveaxis(constants['fill'], 1, 0)[lengths - 1]
        squares = jnp.square(taken.astype(jnp.float32) - fill)
        return squares.sum(tuple(range(3, squares.ndim)))

    return everywhere_squares if everywhere else answer_squares


DEVIATION = Method(
    'deviation',
    'rms deviation',
    'the largest deviation from the mean',
    'sky',
    scores=functools.partial(deviation, everywhere=True),
    line='dashed',
)
ANSWER_DEVIATION = Method(
    'answer_deviation',
    'rms deviation, answer',
    'the largest deviation at the answer position',
    'sky',
    scores=functools.partial(deviation, everywhere=False),
    line='dotted',
    by_default=False,
)
