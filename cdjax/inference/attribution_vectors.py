"""One vector for each problem that tells which neurons its answer comes from, for k-means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.inference.gradients import metric_gradients
from cdjax.inference.rows import map_rows
from cdjax.models import Llama
from cdjax.parallel.mesh import one_device, split_neurons
from cdjax.run.options import TOKENS_PER_PASS

# Numbers of a vector: of more neurons the vector is folded, so that N of them fit on the host.
WIDTH = 1024


def attribution_vectors(
    model: Llama,
    dataset: Dataset,
    fill: np.ndarray,
    *,
    width: int = WIDTH,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> np.ndarray:
    """Returns `log(1 + Σ_t |a - fill| · |∂m/∂a|)` of the neurons, of unit length, float32 `[N, E]`.

    m is the model's largest logit minus its mean logit: of the answer nothing is read, but what the
    model predicts is, and where it is right classes of these vectors tell of the answer. Of more
    than `width` neurons each is added, with a sign of its own, to one of `width` sums: inner
    products stay as they are in expectation (count sketch, Charikar et al. 2002).

    Args:
        model: the model.
        dataset: N problems.
        fill: float `[L, T, F]`, mean activations.
        width: numbers of a vector at most.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
        description: shows a progress bar under this name.
    """
    mesh = one_device() if mesh is None else mesh
    return map_rows(
        _vector_rows(width),
        {'model': model, 'fill': split_neurons(np.asarray(fill, np.float32), mesh)},
        {'tokens': dataset.tokens, 'lengths': dataset.lengths},
        mesh=mesh,
        tokens_per_pass=tokens_per_pass,
        description=description,
    )


def own_prediction(logits: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
    """Returns the largest logit minus the mean logit, float32 `[B]`; of `rows` nothing is read."""
    return logits.max(axis=-1) - logits.mean(axis=-1)


@functools.cache
def _vector_rows(width: int):
    """Returns the function that `map_rows` compiles, one and the same for a width."""

    def vector_rows(constants, rows):
        a, gradients = metric_gradients(constants['model'], rows, metric=own_prediction)
        away = jnp.abs(a.astype(jnp.float32) - constants['fill'][:, None])
        weights_LxBxF = (away * jnp.abs(gradients)).sum(axis=2)
        logs_BxD = jnp.log1p(jnp.swapaxes(weights_LxBxF, 0, 1).reshape(a.shape[1], -1))
        neurons = logs_BxD.shape[1]
        if neurons > width:
            rng = np.random.default_rng(0)
            signs = rng.choice(np.float32([-1, 1]), neurons)
            sums = rng.integers(width, size=neurons)
            logs_BxD = jnp.zeros((len(logs_BxD), width)).at[:, sums].add(logs_BxD * signs[None])
        length = jnp.sqrt(jnp.square(logs_BxD).sum(axis=1, keepdims=True))
        return logs_BxD / jnp.maximum(length, 1e-12)

    return vector_rows
