"""How far what a model says with only a circuit is from what the whole model says."""

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.ablation import keep_only
from cdjax.data import Dataset
from cdjax.data.encoding import NO_TOKEN
from cdjax.inference.predictions import answer_columns
from cdjax.inference.rows import map_rows
from cdjax.losses.numerics import softmax_kl
from cdjax.models import Llama
from cdjax.parallel.mesh import one_device, split_neurons
from cdjax.run.options import TOKENS_PER_PASS


def circuit_divergences(
    model: Llama,
    dataset: Dataset,
    masks: np.ndarray,
    fill: np.ndarray,
    *,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> np.ndarray:
    """Returns KL(the model ‖ the model with only each circuit) of each problem, float32 `[N, K]`.

    In nats, at the answer, of several tokens the sum; all other neurons at their mean.

    Args:
        model: the model.
        dataset: N problems.
        masks: bool `[K, L, F]`.
        fill: float `[L, T, F]`, mean activations.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
    """
    mesh = one_device() if mesh is None else mesh
    constants = {
        'model': model,
        'masks': split_neurons(np.asarray(masks, bool), mesh),
        'fill': split_neurons(np.asarray(fill, np.float32), mesh),
    }
    names = ('tokens', 'lengths', 'answers')
    rows = {name: getattr(dataset, name) for name in names}
    settings = {'mesh': mesh, 'tokens_per_pass': tokens_per_pass}
    return map_rows(_divergence_rows, constants, rows, **settings)


def _divergence_rows(constants, rows):
    model, fill = constants['model'], constants['fill'][:, None]

    def logits(mask_1xLxF=None):
        edits = None if mask_1xLxF is None else {'neurons': keep_only(mask_1xLxF, fill)}
        return model(rows['tokens'], edits=edits, logits_at=answer_columns(rows))[0]

    whole, masks = logits(), constants['masks']

    def divergence(mask_LxF):
        kl = softmax_kl(whole, logits(mask_LxF[None]))
        return kl if kl.ndim == 1 else jnp.where(rows['answers'] != NO_TOKEN, kl, 0).sum(axis=1)

    return jnp.stack([divergence(m) for m in masks], axis=1)
