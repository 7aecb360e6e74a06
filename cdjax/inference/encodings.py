"""What describes each problem to the classifier: the model's own activations before the answer."""

import functools

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.classifier import Encoding
from cdjax.data import Dataset
from cdjax.data.token_rows import counted_columns
from cdjax.inference.rows import map_rows
from cdjax.models import Capture, Llama
from cdjax.run.options import TOKENS_PER_PASS


def encode(
    model: Llama,
    dataset: Dataset,
    encoding: Encoding,
    *,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> np.ndarray:
    """Returns the encoding of each problem, float32 `[N, E]`, E = positions times width.

    Args:
        model: the model that is read, up to the layer of the encoding.
        dataset: N problems.
        encoding: which activations.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `rows_per_pass`.
        description: shows a progress bar under this name.

    Raises:
        InputError: a layer or a position that the model or the prompts lack.
    """
    length = dataset.prompt_columns
    encoding.check(model.config, length)
    positions = None if length == dataset.tokens.shape[1] else tuple(range(length))
    if encoding.positions is not None:
        # From the start of the row: behind the prompt may stand an answer, which is not read.
        positions = tuple(at % length for at in encoding.positions)
    return map_rows(
        _encode_rows(encoding.layer, positions),
        model,
        {'tokens': dataset.tokens},
        mesh=mesh,
        tokens_per_pass=tokens_per_pass,
        description=description,
    )


@functools.cache
def _encode_rows(layer: int, positions: tuple[int, ...] | None):
    """Returns the function that `map_rows` compiles, one and the same for equal arguments."""
    capture = Capture('residual', (layer,), positions)

    def encode_rows(model, rows):
        _, activations = model(rows['tokens'], capture=(capture,), logits_at=())
        residual_BxTxd = activations['residual'][0].astype(jnp.float32)
        counted_BxT = counted_columns(rows['tokens'])
        if counted_BxT is not None:
            read = slice(None) if positions is None else np.array(positions)
            residual_BxTxd = jnp.where(counted_BxT[:, read, None], residual_BxTxd, 0)
        return residual_BxTxd.reshape(residual_BxTxd.shape[0], -1)

    return encode_rows
