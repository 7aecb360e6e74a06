"""What a model says and does at the answer position of each problem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.losses import TopKLogits
from cdjax.models import Llama
from cdjax.parallel.batching import map_rows


def answer_activations(
    model: Llama, tokens: jax.Array, lengths: jax.Array, **options
) -> tuple[jax.Array, jax.Array]:
    """Returns logits and neurons at the answer position, the last of each prompt.

    Args:
        model: the model.
        tokens: int `[B, T]`, right-padded.
        lengths: int `[B]`, tokens of each prompt.
        **options: `edits`, `dtype` and `remat` of the model's call.

    Returns:
        logits float32 `[B, V]`, and neurons `[B, L, F]` in the dtype of the computation.
    """
    at_B = lengths - 1
    logits, activations = model(tokens, capture=('neurons',), logits_at=at_B, **options)
    at = at_B[None, :, None, None]
    neurons_LxBxF = jnp.take_along_axis(activations['neurons'], at, axis=2)[:, :, 0]
    return logits, jnp.swapaxes(neurons_LxBxF, 0, 1)


def collect_answer_activations(
    model: Llama,
    dataset: Dataset,
    *,
    mesh: Mesh,
    layers: tuple[int, ...] | None = None,
    top_k: tuple[int, float] | None = None,
    batch_size: int = 512,
    description: str | None = None,
) -> tuple[np.ndarray | TopKLogits, np.ndarray]:
    """Returns `answer_activations` of a whole data set on the host: `[N, V]` and `[N, L, F]`.

    With `layers` the neurons are those of these layers, `[N, len(layers), F]`; with `top_k`, k
    and a temperature, the logits are `TopKLogits`.
    """
    rows = {'tokens': dataset.tokens, 'lengths': dataset.lengths}
    return map_rows(
        answer_rows(layers, top_k),
        model,
        rows,
        mesh=mesh,
        batch_size=batch_size,
        description=description,
    )


@functools.lru_cache
def answer_rows(layers: tuple[int, ...] | None, top_k: tuple[int, float] | None = None):
    """Returns the function of model and rows that `collect_answer_activations` maps."""

    def rows_of(model, rows):
        logits, neurons_BxLxF = answer_activations(model, rows['tokens'], rows['lengths'])
        if top_k is not None:
            k, temperature = top_k
            logits = TopKLogits.from_logits(logits, k, temperature=temperature)
        return logits, neurons_BxLxF if layers is None else neurons_BxLxF[
            :, jnp.array(layers, jnp.int32)
        ]

    return rows_of
