"""The mean activation of every unit at every position: what mean ablation puts in its place."""

import functools

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.data.token_rows import counted_columns
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

    Rows of several lengths are aligned where their answers begin, so a position is counted from
    there, and the mean is over the rows that have it.

    Args:
        model: the model.
        dataset: the problems.
        site: whose activations; those of neurons are `[L, T, F]`.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `rows_per_pass`.
        description: shows a progress bar under this name.

    Raises:
        InputError: prompts of different lengths that are not aligned, whose positions would mix
            tokens and padding.
    """
    check_one_length(dataset)
    means = mean_rows(
        site_activations(site),
        model,
        {'tokens': dataset.tokens},
        mesh=mesh,
        tokens_per_pass=tokens_per_pass,
        description=description,
    )
    return _of_counted(means, dataset)


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
    return np.sqrt(_of_counted(squares, dataset))


def check_one_length(dataset: Dataset) -> None:
    """Raises InputError for rows that end at several columns, which have no mean at a position."""
    shortest, longest = dataset.lengths.min(), dataset.lengths.max()
    if shortest != longest:
        raise InputError(
            f'prompts of {shortest} to {longest} tokens have no mean activation at a position, '
            'which ablation puts in place of a neuron: give problems whose prompts have one length'
        )


def _counted_only(values_BxLxT, tokens):
    """Returns zeros in place of values `[B, L, T, ...]` at columns that are of no row."""
    counted_BxT = counted_columns(tokens)
    if counted_BxT is None:
        return values_BxLxT
    shape = (len(counted_BxT), 1, counted_BxT.shape[1], *(1,) * (values_BxLxT.ndim - 3))
    return jnp.where(counted_BxT.reshape(shape), values_BxLxT, 0)


def _of_counted(means_LxT: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Returns means `[L, T, ...]` over the rows that have a column, of means over all rows."""
    counted_NxT = counted_columns(dataset.tokens)
    if counted_NxT is None:
        return means_LxT
    share_T = counted_NxT.mean(axis=0, dtype=np.float64).astype(np.float32)
    return means_LxT / share_T.reshape(1, -1, *(1,) * (means_LxT.ndim - 2))


@functools.cache
def site_activations(site: str):
    """Returns the function whose mean `neuron_means` takes, one and the same for a site."""

    def activations(model, rows):
        _, captured = model(rows['tokens'], capture=(Capture(site),), logits_at=())
        return _counted_only(jnp.moveaxis(captured[site], 1, 0), rows['tokens'])

    return activations


@functools.cache
def _squares_of(site: str):
    """Returns the function that `mean_rows` compiles, one and the same for a site."""

    def squares(constants, rows):
        deviations = site_activations(site)(constants['model'], rows) - constants['means'][None]
        squares = jnp.square(deviations.astype(jnp.float32))
        return _counted_only(squares, rows['tokens'])

    return squares
