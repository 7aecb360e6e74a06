"""Many circuits on the same problems: each is a smaller model, for what is ablated is a constant.

A neuron that is zero or at its mean whatever the prompt adds the same vector at each position. So
a circuit of s of F neurons a layer costs s/F of the MLPs, and its products round no worse.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.data.token_rows import read_once
from cdjax.errors import InputError
from cdjax.inference.predictions import Predictions, answer_columns, answer_scores
from cdjax.inference.rows import map_rows
from cdjax.models import Edit, Llama
from cdjax.parallel.mesh import one_device, split_neurons
from cdjax.run.options import TOKENS_PER_PASS

# Widths of circuits are rounded up to a multiple of this, so that close ones share a compilation.
_STEP = 64


def circuit_model(
    model: Llama, mask_LxF: jax.Array, fill_LxTxF: jax.Array | None, width: int
) -> tuple[Llama, dict[str, Edit]]:
    """Returns the model of a circuit alone, and the edit that stands for what was left out.

    Args:
        model: F neurons a layer.
        mask_LxF: bool, the neurons that stay: at most `width` in a layer.
        fill_LxTxF: what the others become, float32; zero if None.
        width: neurons a layer of the smaller model; those that the circuit lacks add nothing.

    Returns:
        A Llama of `width` neurons a layer, and edits (of `mlp_out`) for its calls: with them its
        logits are those of the model under `Edit(mask, center=fill)` at all positions.
    """
    kept_first_LxW = jnp.argsort(~mask_LxF, axis=1)[:, :width]
    inside_LxW = jnp.take_along_axis(mask_LxF, kept_first_LxW, axis=1)
    mlp, small = model.layers.mlp, jax.tree.map(lambda leaf: leaf, model)
    columns = lambda w: jnp.take_along_axis(w[...], kept_first_LxW[:, None, :], axis=2)
    down_LxFxd = mlp.down.weight[...]
    rows_LxWxd = jnp.take_along_axis(down_LxFxd, kept_first_LxW[:, :, None], axis=1)
    small.layers.mlp.gate.weight = nnx.Param(columns(mlp.gate.weight))
    small.layers.mlp.up.weight = nnx.Param(columns(mlp.up.weight))
    small.layers.mlp.down.weight = nnx.Param(jnp.where(inside_LxW[:, :, None], rows_LxWxd, 0))
    small.config = dataclasses.replace(model.config, intermediate_size=width)
    if fill_LxTxF is None:
        return small, {}
    outside_LxTxF = jnp.where(mask_LxF[:, None], 0, fill_LxTxF)
    constant_LxTxd = jnp.einsum(
        'ltf,lfd->ltd',
        outside_LxTxF,
        down_LxFxd.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return small, {'mlp_out': Edit(shift=constant_LxTxd[:, None])}


def predict_circuits(
    model: Llama,
    dataset: Dataset,
    masks: np.ndarray,
    *,
    classes: np.ndarray | None = None,
    fill: np.ndarray | None = None,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> list[Predictions]:
    """Answers every problem under each of M sets of circuits, as `predict` does under one.

    All run under one compilation, at the cost of the largest of the circuits.

    Args:
        model: the model.
        dataset: N problems.
        masks: binary `[M, K, L, F]`, 1 for the neurons that stay.
        classes: int `[N]`, the circuit of each problem; circuit 0 for all if None.
        fill: float `[L, T, F]`, the means that the others are put to; zero if None.
        mesh: as for `predict`.
        tokens_per_pass: as there.
        description: as there.

    Raises:
        InputError: masks of another shape, or that are not binary.
    """
    c = model.config
    full = (c.num_layers, c.intermediate_size)
    binary = np.asarray(masks, bool)
    if binary.ndim != 4 or binary.shape[2:] != full or (binary != masks).any():
        raise InputError(
            f'masks of shape {np.shape(masks)}: binary ones are needed, [M, K, {full[0]}, '
            f'{full[1]}]; `predict` takes others'
        )
    mesh = one_device() if mesh is None else mesh
    widest = max(int(binary.sum(-1).max(initial=0)), 1)
    width = min(-(-widest // _STEP) * _STEP, c.intermediate_size)
    classes = np.zeros(len(dataset), np.int32) if classes is None else np.asarray(classes)
    members = [np.flatnonzero(classes == k) for k in range(binary.shape[1])]
    longest = max(map(len, members))
    constants = {'model': model}
    if fill is not None:
        constants['fill'] = split_neurons(np.asarray(fill, np.float32), mesh)
    found = None
    for k, index in enumerate(members):
        if not len(index):
            continue
        # Filled up to the largest class, so that all classes share a compilation.
        rows = np.resize(index, longest)
        results = map_rows(
            _circuit_rows(width),
            {**constants, 'masks': split_neurons(binary[:, k], mesh)},
            {
                'tokens': dataset.tokens[rows],
                'lengths': dataset.lengths[rows],
                'answers': dataset.answers[rows],
                'counterfactual_answers': dataset.counterfactual_answers[rows],
            },
            mesh=mesh,
            tokens_per_pass=tokens_per_pass,
            description=description,
        )
        if found is None:
            found = [np.zeros((len(dataset), *x.shape[1:]), x.dtype) for x in results]
        for whole, part in zip(found, results, strict=True):
            whole[index] = part[: len(index)]
    return [Predictions(*(x[:, m] for x in found)) for m in range(len(binary))]


@functools.cache
def _circuit_rows(width: int):
    """Returns the function that `map_rows` compiles, one and the same for a width."""

    def circuit_rows(constants, rows):
        model, fill = constants['model'], constants.get('fill')
        tokens = read_once(rows['tokens'], model)  # the circuit acts behind the prefix

        def under(mask_LxF):
            small, edits = circuit_model(model, mask_LxF, fill, width)
            logits, _ = small(tokens, edits=edits, logits_at=answer_columns(rows))
            return answer_scores(logits, rows)

        by_mask = jax.lax.map(under, constants['masks'])
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), by_mask)

    return circuit_rows
