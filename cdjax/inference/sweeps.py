"""Many sets of circuits on the same problems, under few compilations.

`predict_each` takes whatever `predict` takes. What no mask changes, the prompts up to the first
neurons that are edited and the counterfactual prompts, is computed once for all of them.

`predict_circuits` is for circuits that are small, where others are zero or at their mean: a neuron
that is a constant whatever the prompt adds the same vector at each position. So a circuit of s of
F neurons a layer is a smaller model that costs s/F of the MLPs, and its products round no worse.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from cdjax.circuits.ablation import keep_only
from cdjax.data import Dataset
from cdjax.data.token_rows import read_once
from cdjax.errors import InputError
from cdjax.inference.predictions import (
    Predictions,
    ablation_inputs,
    answer_columns,
    answer_scores,
    fill_of_rows,
    scored_rows,
    scores_under,
)
from cdjax.inference.rows import map_rows
from cdjax.models import Edit, Llama
from cdjax.parallel.mesh import one_device, split_neurons
from cdjax.run.options import TOKENS_PER_PASS

# Circuits run in models of this many neurons a layer, or 2, 3, 4, 6, 8, 12 ... times as many: one
# compilation for each of these widths. Sets of a width that are fewer than that join the next.
_STEP = 64
_WORTH_ONE = 4
# Sets of masks that are on the devices at once. Fewer are filled up to it, and cost nothing: the
# program is told how many there are.
_AT_ONCE = 16


def predict_each(
    model: Llama,
    dataset: Dataset,
    masks: Sequence[np.ndarray],
    *,
    classes: np.ndarray | None = None,
    fill: np.ndarray | None = None,
    ablation: str = 'mean',
    site: str = 'neurons',
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> list[Predictions]:
    """Answers every problem under each of M sets of masks, as `predict` does under one.

    However many sets there are, one program is compiled for masks of one K. In it a loop goes over
    the sets, out of which XLA takes what is the same for all: of the first layer all but the down
    projection, where layers are compiled one by one, and the counterfactual prompts.

    Args:
        model: the model.
        dataset: N problems.
        masks: M arrays `[K, L, U]`, as for `predict`.
        classes: int `[N]`, which of the K masks is the problem's; mask 0 for all if None.
        fill: as for `predict`.
        ablation: as there.
        site: as there.
        mesh: as there.
        tokens_per_pass: as there.
        description: as there.

    Raises:
        InputError: as there.
    """
    mesh = one_device() if mesh is None else mesh
    found = []
    for start in range(0, len(masks), _AT_ONCE):
        some = np.stack(masks[start : start + _AT_ONCE])
        unused = np.zeros((_AT_ONCE - len(some), *some.shape[1:]), some.dtype)
        constants, rows = ablation_inputs(
            model,
            dataset,
            np.concatenate([some, unused]),
            classes,
            fill=fill,
            ablation=ablation,
            site=site,
            mesh=mesh,
            axes=('M', 'K'),
        )
        results = map_rows(
            _rows_under_each(site),
            {'model': model, 'count': np.int32(len(some)), **constants},
            scored_rows(dataset) | rows,
            mesh=mesh,
            tokens_per_pass=tokens_per_pass,
            description=description,
        )
        found += [Predictions(*(x[:, m] for x in results)) for m in range(len(some))]
    return found


@functools.cache
def _rows_under_each(site: str):
    """Returns the function that `map_rows` compiles, one and the same for a site."""

    def rows_under_each(constants, rows):
        fill = fill_of_rows(constants, rows, site)
        rows = rows | {'tokens': read_once(rows['tokens'], constants['model'])}

        def scores(m):
            masks_BxLxU = constants['masks'][m, rows['classes']]
            return scores_under({site: keep_only(masks_BxLxU, fill, site)}, constants, rows)

        return _for_each(constants['count'], scores)

    return rows_under_each


def _for_each(count: jax.Array, scores):
    """Returns `scores(m)` of the first sets of `_AT_ONCE`, a pytree of `[B, M, ...]`; 0 beyond."""
    scores = jax.jit(scores, inline=True)  # their shapes and their program are of one trace

    def add(m, found):
        return jax.tree.map(lambda all_BxM, one_B: all_BxM.at[:, m].set(one_B), found, scores(m))

    of_all = lambda x: jnp.zeros((len(x), _AT_ONCE, *x.shape[1:]), x.dtype)
    empty = jax.tree.map(of_all, jax.eval_shape(scores, 0))
    return jax.lax.fori_loop(0, count, add, empty)


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

    Sets whose largest circuit is of about one size run under one compilation, at the cost of the
    largest; where they are few they join those of the next width.

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
    classes = np.zeros(len(dataset), np.int32) if classes is None else np.asarray(classes)
    members = [np.flatnonzero(classes == k) for k in range(binary.shape[1])]
    longest = max(map(len, members))
    constants = {'model': model}
    if fill is not None:
        constants['fill'] = split_neurons(np.asarray(fill, np.float32), mesh)
    found = None
    for width, sets in _sets_by_width(binary):
        for k, index in enumerate(members):
            if not len(index):
                continue
            # Filled up to the largest class, so that all classes share a compilation.
            rows = np.resize(index, longest)
            some = np.zeros((_AT_ONCE, *full), bool)
            some[: len(sets)] = binary[sets, k]
            results = map_rows(
                _circuit_rows(width),
                {
                    **constants,
                    'masks': split_neurons(some, mesh),
                    'count': np.int32(len(sets)),
                },
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
                shape = (len(dataset), len(binary))
                found = [np.zeros((*shape, *x.shape[2:]), x.dtype) for x in results]
            for whole, part in zip(found, results, strict=True):
                whole[index[:, None], sets] = part[: len(index), : len(sets)]
    return [Predictions(*(x[:, m] for x in found)) for m in range(len(binary))]


def _sets_by_width(masks_MxKxLxF: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Returns widths of models, ascending, and which of the M sets run in each, so many at once."""
    neurons = masks_MxKxLxF.shape[-1]
    widths = [_STEP * part for n in range(neurons.bit_length()) for part in (2**n, 3 * 2**n)]
    widths = sorted({min(width, neurons) for width in widths})
    needed = np.searchsorted(widths, masks_MxKxLxF.sum(-1).max(axis=(1, 2), initial=0))
    groups, waiting = [], []
    for n in range(needed.max(initial=0) + 1):
        waiting += [m for m in range(len(needed)) if needed[m] == n]
        if len(waiting) >= _WORTH_ONE or (waiting and n == needed.max()):
            groups += [
                (widths[n], np.array(waiting[start : start + _AT_ONCE]))
                for start in range(0, len(waiting), _AT_ONCE)
            ]
            waiting = []
    return groups


@functools.cache
def _circuit_rows(width: int):
    """Returns the function that `map_rows` compiles, one and the same for a width."""

    def circuit_rows(constants, rows):
        model, fill = constants['model'], constants.get('fill')
        tokens = read_once(rows['tokens'], model)  # the circuit acts behind the prefix

        def scores(mask_LxF):
            small, edits = circuit_model(model, mask_LxF, fill, width)
            logits, _ = small(tokens, edits=edits, logits_at=answer_columns(rows))
            return answer_scores(logits, rows)

        return _for_each(constants['count'], lambda m: scores(constants['masks'][m]))

    return circuit_rows
