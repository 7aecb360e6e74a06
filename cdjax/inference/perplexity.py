"""The perplexity of a text."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.data.text import TextRows
from cdjax.inference.rows import map_rows
from cdjax.models import Llama
from cdjax.run.options import TOKENS_PER_PASS

_LOGITS = 2**26  # of a pass at most: all positions of a row have some


def perplexity(
    model: Llama,
    text: TextRows,
    *,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> float:
    """Returns `exp(mean −log p(token | tokens before it in its row))` over the tokens of a text.

    Args:
        model: the model.
        text: the text.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
    """
    rows = {'tokens': text.tokens, 'lengths': text.lengths}
    at_once = min(tokens_per_pass, max(_LOGITS // model.config.vocab_size, 1))
    losses = map_rows(_losses, model, rows, mesh=mesh, tokens_per_pass=at_once)
    return float(np.exp(losses.sum(dtype=np.float64) / (text.lengths - 1).sum()))


def _losses(model, rows):
    """Returns the sum of −log p of each row's tokens behind its BOS, float32 `[B]`."""
    tokens_BxT, lengths_B = rows['tokens'], rows['lengths']
    logits_BxTxV, _ = model(tokens_BxT, logits_at=None)
    log_p = jax.nn.log_softmax(logits_BxTxV[:, :-1])
    said = jnp.take_along_axis(log_p, tokens_BxT[:, 1:, None], axis=-1)[..., 0]
    counts = jnp.arange(1, tokens_BxT.shape[1])[None] < lengths_B[:, None]
    return -jnp.sum(jnp.where(counts, said, 0), axis=1)
