"""What a model says and does at the answer position of each problem."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.inference.rows import map_rows
from cdjax.losses import TopKLogits
from cdjax.models import Capture, Llama
from cdjax.run.options import TOKENS_PER_PASS


def answer_activations(
    model: Llama,
    tokens: jax.Array,
    lengths: jax.Array,
    *,
    site: str = 'neurons',
    layers: tuple[int, ...] | None = None,
    positions: tuple[int, ...] | None = None,
    answer_tokens: int = 1,
    **options,
) -> tuple[jax.Array, jax.Array]:
    """Returns logits and activations of a batch at the answer position, the last of each prompt.

    Of answers of several tokens it is the position that predicts the first of them; logits are of
    each, behind the answer's tokens before it.

    Args:
        model: the model.
        tokens: int `[B, T]`, right-padded.
        lengths: int `[B]`, tokens of each prompt.
        site: whose activations are returned.
        layers: L' of the layers, each once; all if None.
        positions: P positions of the prompt in place of the answer's.
        answer_tokens: A, tokens of the longest answer whose logits are wanted.
        **options: `edits`, `dtype` and `remat` of the model's call.

    Returns:
        logits float32 `[B, V]`, of several tokens `[B, A, V]`, and activations `[B, L', ...]` in
        the dtype of the computation, `[B, L', F]` of neurons; with `positions`, `[B, L', P, ...]`.
    """
    at_B = lengths - 1
    capture = Capture(site, layers, at_B if positions is None else positions)
    at = token_columns(at_B, answer_tokens)
    logits, activations = model(tokens, capture=(capture,), logits_at=at, **options)
    taken = jnp.swapaxes(activations[site], 0, 1)
    return logits, taken[:, :, 0] if positions is None else taken


def token_columns(first: jax.Array, answer_tokens: int = 1) -> jax.Array:
    """Returns the columns whose logits predict the tokens of answers, int `[B]`.

    Args:
        first: int `[B]`, the column that predicts the first token, the last of each prompt.
        answer_tokens: A; of more than one the columns are `[B, A]`.
    """
    # That very array: a model that is asked for nothing else computes no more of its last layer.
    return first if answer_tokens == 1 else first[:, None] + jnp.arange(answer_tokens)[None]


def answer_logits_and_activations(
    model: Llama,
    dataset: Dataset,
    *,
    site: str = 'neurons',
    layers: tuple[int, ...] | None = None,
    positions: tuple[int, ...] | None = None,
    answer_tokens: int = 1,
    top_k: tuple[int, float] | None = None,
    read: Callable[..., tuple[jax.Array, jax.Array]] = answer_activations,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> tuple[np.ndarray | TopKLogits, np.ndarray]:
    """Returns `answer_activations` of a whole data set on the host: `[N, V]` and `[N, L', ...]`.

    Of answers of several tokens whose logits are wanted, those are `[N, A, V]`.

    Args:
        model: the model.
        dataset: N problems.
        site: as in `answer_activations`.
        layers: as in `answer_activations`.
        positions: as in `answer_activations`.
        answer_tokens: as in `answer_activations`: 1, or that of the data set.
        top_k: k and a temperature, where the logits are to be `TopKLogits`.
        read: what is returned in place of the activations, called like `answer_activations`.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `rows_per_pass`.
        description: shows a progress bar under this name.
    """
    return map_rows(
        answer_rows(site, layers, positions, top_k, read, answer_tokens),
        model,
        {'tokens': dataset.tokens, 'lengths': dataset.lengths},
        mesh=mesh,
        tokens_per_pass=tokens_per_pass,
        description=description,
    )


@functools.cache
def answer_rows(
    site: str,
    layers: tuple[int, ...] | None,
    positions: tuple[int, ...] | None,
    top_k: tuple[int, float] | None,
    read: Callable[..., tuple[jax.Array, jax.Array]] = answer_activations,
    answer_tokens: int = 1,
):
    """Returns the function of model and rows that `answer_logits_and_activations` maps."""

    def rows_of(model, rows):
        logits, activations = read(
            model,
            rows['tokens'],
            rows['lengths'],
            site=site,
            layers=layers,
            positions=positions,
            answer_tokens=answer_tokens,
        )
        if top_k is not None:
            k, temperature = top_k
            logits = TopKLogits.from_logits(logits, k, temperature=temperature)
        return logits, activations

    return rows_of
