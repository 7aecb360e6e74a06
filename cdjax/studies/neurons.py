"""What single neurons of the circuits do: where they are active, and which answers they raise.

The arithmetic heuristics of Nikankin et al. (arXiv 2410.21272) are neurons whose activation over
two operands has a pattern: a band of results, a residue, one operand alone.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cdjax.circuits.circuit import Circuit
from cdjax.data import Dataset
from cdjax.inference.activations import answer_activations
from cdjax.inference.predictions import predict
from cdjax.inference.rows import map_rows
from cdjax.models import Llama
from cdjax.run.results import stored
from cdjax.studies.circuits import CircuitStudyConfig, unseen_rows
from cdjax.studies.run import Run

MAX_NEURONS, PER_CLASS = 24, 4
MAX_PROBLEMS, MAX_OPERANDS, MAX_BINS = 20_000, 3, 40


def study_neurons(run: Run, circuit: Circuit, config: CircuitStudyConfig) -> dict[str, Any]:
    """Describes the neurons that stand out most in the teacher's circuits, once.

    Args:
        run: the run.
        circuit: the teacher's circuits.
        config: how circuits are measured: on which problems, with which ablation.

    Returns:
        What `results/neurons.json` holds, see docs/artefacts.md.
    """
    return stored(run.places.result('neurons'), lambda: _describe(run, circuit, config))


def choose_neurons(circuit: Circuit) -> list[tuple[int, int, int | None]]:
    """Returns neurons to look at: (layer, neuron, class, or None for one that all share).

    Of each class those of its circuit whose score lies furthest above their highest score in
    another class, and then those of all circuits, of the highest least score.
    """
    K, L, F = circuit.scores.shape
    scores, masks = (x.reshape(K, L * F) for x in (circuit.scores, circuit.masks))
    each = max(min(PER_CLASS, MAX_NEURONS // (K + 1)), 1)
    chosen: dict[int, int | None] = {}
    if K > 1:
        for k in range(min(K, MAX_NEURONS)):
            above = scores[k] - np.delete(scores, k, axis=0).max(axis=0)
            order = np.argsort(-above, kind='stable')
            fresh = (d for d in order if masks[k, d] and d not in chosen)
            chosen |= {int(d): k for d, _ in zip(fresh, range(each), strict=False)}
    shared = each if K > 1 else MAX_NEURONS // 3
    order = np.argsort(-scores.min(axis=0), kind='stable')
    fresh = (d for d in order if masks[:, d].all() and d not in chosen)
    chosen |= {int(d): None for d, _ in zip(fresh, range(shared), strict=False)}
    return [(*divmod(d, F), k) for d, k in chosen.items()]


def read_operands(prompts: Sequence[str]) -> np.ndarray:
    """Returns the numbers in each prompt that vary, int `[N, n]`, n = 0 where prompts differ."""
    found = [re.findall(r'\d+', prompt) for prompt in prompts]
    if len({len(numbers) for numbers in found}) != 1:
        return np.zeros((len(found), 0), int)
    table = np.array(found, float).astype(int).reshape(len(found), -1)
    varies = (table != table[:1]).any(axis=0)
    return table[:, varies][:, :MAX_OPERANDS]


def bins_of(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns the bin of each integer and the names of the bins, at most `MAX_BINS` of them.

    Where values are more, bins have equal width and are named for their range.
    """
    distinct = np.unique(values)
    if len(distinct) <= MAX_BINS:
        return np.searchsorted(distinct, values), [str(v) for v in distinct]
    low, high = int(distinct[0]), int(distinct[-1])
    width = -(-(high - low + 1) // MAX_BINS)
    names = [f'{a}–{min(a + width - 1, high)}' for a in range(low, high + 1, width)]
    return (values - low) // width, names


def _describe(run: Run, circuit: Circuit, config: CircuitStudyConfig) -> dict[str, Any]:
    dataset, chosen = run.inputs.dataset, choose_neurons(circuit)
    at = np.array([(layer, neuron) for layer, neuron, _ in chosen])
    rng = np.random.default_rng(config.seed)
    rows = np.sort(rng.permutation(len(dataset))[:MAX_PROBLEMS])
    problems, classes = dataset[rows], circuit.assignments[rows]
    activations_NxD = _activations(run, problems, at)
    operands = read_operands(problems.prompts)
    axes = [bins_of(column) for column in operands.T]
    answers, answer_names = _answers(run, problems)
    effects_DxA = direct_effects(run, at, np.array([token for token, _ in answer_names]))
    loss_DxK = _loss_without(run, circuit, config, at)
    neurons = []
    for d, (layer, neuron, chosen_for) in enumerate(chosen):
        of_class = np.full(len(rows), True) if chosen_for is None else classes == chosen_for
        values = activations_NxD[of_class, d]
        mean = functools.partial(_mean_by, values)
        neurons.append(
            {
                'layer': layer,
                'neuron': neuron,
                'class': chosen_for,
                'circuits': np.flatnonzero(circuit.masks[:, layer, neuron]).tolist(),
                'scores': _short(circuit.scores[:, layer, neuron]),
                'mean': _short(_mean_by(activations_NxD[:, d], classes, circuit.num_classes)),
                'loss_without': _short(loss_DxK[d]),
                'by_answer': _short(mean(answers[of_class], len(answer_names))),
                'effect_on_answer': _short(effects_DxA[d]),
                'maps': {
                    f'{i + 1}-{j + 1}': _map(values, axes[i], axes[j], of_class)
                    for i in range(len(axes))
                    for j in range(i + 1, len(axes))
                },
            }
        )
    return {
        'problems': len(rows),
        'operands': [names for _, names in axes],
        'answers': [name for _, name in answer_names],
        'neurons': neurons,
    }


def _activations(run: Run, problems: Dataset, at: np.ndarray) -> np.ndarray:
    """Returns the activations of chosen neurons at the answer position, float32 `[N, D]`."""
    layers = tuple(sorted(set(at[:, 0].tolist())))
    places = np.stack([np.searchsorted(layers, at[:, 0]), at[:, 1]])
    return map_rows(
        _chosen_activations(layers),
        {'model': run.teacher, 'places': jnp.asarray(places)},
        {'tokens': problems.tokens, 'lengths': problems.lengths},
        description='look at neurons',
        **run.passes,
    )


@functools.cache
def _chosen_activations(layers: tuple[int, ...]):
    def chosen(constants, rows):
        model, (layer, neuron) = constants['model'], constants['places']
        _, taken = answer_activations(model, rows['tokens'], rows['lengths'], layers=layers)
        return taken[:, layer, neuron].astype(jnp.float32)

    return chosen


def _answers(run: Run, problems: Dataset) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Returns the answer of each problem by number, and the token and text of each number.

    Of several tokens the first is taken. Answers that are numbers are in their order.
    """
    first = problems.answers.reshape(len(problems), -1)[:, 0]
    tokens, index = np.unique(first, return_inverse=True)
    texts = [run.inputs.tokenizer.decode([int(token)]).strip() for token in tokens]
    is_number = all(re.fullmatch(r'-?\d+', text) for text in texts)
    order = sorted(range(len(texts)), key=lambda i: int(texts[i]) if is_number else texts[i])
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    return place[index], [(int(tokens[i]), texts[i]) for i in order]


def direct_effects(run: Run, at: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Returns what a unit of each neuron adds to each answer's logit, less the mean, `[D, A]`."""
    everywhere = NamedSharding(run.mesh, PartitionSpec())
    with jax.set_mesh(run.mesh):
        effects = jax.jit(_effects, out_shardings=everywhere)(run.teacher, *at.T, answers)
    effects = np.asarray(effects.addressable_data(0))
    return effects - effects.mean(axis=1, keepdims=True)


def _effects(model: Llama, layers: jax.Array, neurons: jax.Array, answers: jax.Array) -> jax.Array:
    # Straight through the residual stream; the last norm's division is one factor for all answers.
    written_Dxd = model.layers.mlp.down.weight[...][layers, neurons].astype(jnp.float32)
    written_Dxd = written_Dxd * model.norm.weight[...].astype(jnp.float32)[None]
    if model.config.tie_embeddings:
        head_Axd = model.embed.weight[...][answers]
    else:
        head_Axd = model.lm_head.weight[...][:, answers].T
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return product('dx,ax->da', written_Dxd, head_Axd.astype(jnp.float32))


def _loss_without(run: Run, circuit: Circuit, config: CircuitStudyConfig, at) -> np.ndarray:
    """Returns by class how much logit difference is lost with one neuron ablated, `[D, K]`."""
    rows = unseen_rows(run.inputs.split, config)
    problems, classes = run.inputs.dataset[rows], circuit.assignments[rows]
    answer = functools.partial(predict, run.teacher, problems, **run.passes)
    whole = answer().logit_difference
    lost = []
    for layer, neuron in at:
        masks = np.ones_like(circuit.masks[:1])
        masks[0, layer, neuron] = False
        ablated = answer(masks=masks, fill=circuit.fill, ablation=config.ablation)
        lost.append(_mean_by(whole - ablated.logit_difference, classes, circuit.num_classes))
    return np.stack(lost)


def _map(values, rows, columns, of_class) -> list[list[float | None]]:
    """Returns mean activations by bins of two operands, `[rows][columns]`, None for no problem."""
    (row, row_names), (column, column_names) = rows, columns
    shape = len(row_names), len(column_names)
    cell = row[of_class] * shape[1] + column[of_class]
    means = _mean_by(values, cell, shape[0] * shape[1]).reshape(shape)
    return [_short(line) for line in means]


def _mean_by(values: np.ndarray, index: np.ndarray, n: int) -> np.ndarray:
    """Returns the mean of the values of each index, float64 `[n]`, NaN where there are none."""
    counts = np.bincount(index, minlength=n)
    sums = np.bincount(index, weights=values, minlength=n)
    return np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0)


def _short(values: np.ndarray) -> list[float | None]:
    """Returns numbers of four digits, which is what a map can show, and None for NaN."""
    return [None if np.isnan(x) else float(f'{x:.4g}') for x in values.tolist()]
