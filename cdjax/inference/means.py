"""The mean activation of every unit at every position: what mean ablation puts in its place."""

import functools

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.errors import InputError
from cdjax.inference.rows import mean_rows
from cdjax.models import Capture, Llama
from cdjax.run.options import TOKENS_PER_PASS


def neuron_means(
    model: Llama,
    dataset: Dataset,
    *,
    site: str = 'neurons',
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> np.ndarray:
    """Returns the mean activation of a site at each position, float32 `[L, T, ...]`.

    Args:
        model: the model.
        dataset: the problems.
        site: whose activations; those of neurons are `[L, T, F]`.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `rows_per_pass`.
        description: shows a progress bar under this name.

    Raises:
        InputError: prompts of different lengths, whose positions would mix tokens and padding.
    """
    check_one_length(dataset)
    return mean_rows(
        site_activations(site),
        model,
        {'tokens': dataset.tokens},
        mesh=mesh,
        tokens_per_pass=tokens_per_pass,
        description=description,
    )


def neuron_deviations(
    model: Llama,
    dataset: Dataset,
    means: np.ndarray,
    *,
    site: str = 'neurons',
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> np.ndarray:
    """Returns the root mean square deviation of a site from given means, float32 `[L, T, ...]`.

    Args:
        model: the model.
        dataset: the problems, of one length.
        means: float `[L, T, ...]`, see `neuron_means`; of the same problems, for this to be their
            standard deviation.
        site: as in `neuron_means`, like the others.
        mesh: as there.
        tokens_per_pass: as there.
        description: as there.
    """
    check_one_length(dataset)
    squares = mean_rows(
        _squares_of(site),
        {'model': model, 'means': np.asarray(means, np.float32)},
        {'tokens': dataset.tokens},
        mesh=mesh,
        tokens_per_pass=tokens_per_pass,
        description=description,
    )
    return np.sqrt(squares)


def check_one_length(dataset: Dataset) -> None:
    """Raises InputError for prompts of several lengths, which have no mean at a position."""
    shortest, longest = dataset.lengths.min(), dataset.lengths.max()
    if shortest != longest:
        raise InputError(
            f'prompts of {shortest} to {longest} tokens have no mean activation at a position, '
            'which ablation puts in place of a neuron: give problems whose prompts have one length'
        )


@functools.cache
def site_activations(site: str):
    """Returns the function whose mean `neuron_means` takes, one and the same for a site."""

    def activations(model, rows):
        _, captured = model(rows['tokens'], capture=(Capture(site),), logits_at=())
        return jnp.moveaxis(captured[site], 1, 0)

    return activations


@functools.cache
def _squares_of(site: str):
    """Returns the function that `mean_rows` compiles, one and the same for a site."""

    def squares(constants, rows):
        deviations = site_activations(site)(constants['model'], rows) - constants['means'][None]
        return jnp.square(deviations.astype(jnp.float32))

    return squares
