"""The study of a model's circuits: the learned classes against every control at equal size."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.ablation import ABLATIONS
from cdjax.circuits.circuit import Circuit
from cdjax.circuits.masks import random_masks
from cdjax.data import Dataset, Split
from cdjax.errors import InputError
from cdjax.evaluation.classes import (
    agreement,
    answer_cut_classes,
    answer_information,
    class_table,
    constant_answer_accuracy,
)
from cdjax.evaluation.faithfulness import faithfulness
from cdjax.evaluation.selectivity import selectivity, selectivity_matrix
from cdjax.evaluation.statistics import bootstrap_interval
from cdjax.inference.activations import answer_logits_and_activations
from cdjax.inference.predictions import predict
from cdjax.models import Llama
from cdjax.run.metrics import progress
from cdjax.run.options import TOKENS_PER_PASS, RunOptions
from cdjax.training.discovery import DiscoveryConfig, discover

# Controls whose masks are learned like the circuits', for classes that are fixed beforehand.
LEARNED_CONTROLS = ('one mask', 'operator classes', 'random classes', 'answer-cut classes')
OURS, RANDOM, LOUDEST = 'learned classes', 'random masks', 'mean |a|'


@dataclasses.dataclass(frozen=True)
class CircuitStudyConfig:
    """How circuits are evaluated.

    Attributes:
        sizes: sizes of the circuits as shares of all neurons; their own size is measured too.
        controls: which of `LEARNED_CONTROLS` are trained.
        max_problems: problems of unseen forms that are evaluated, at most.
        ablation: what the neurons outside a circuit become, see `cdjax.circuits.ablation`.
        seed: of random classes, random masks and the choice of problems.
    """

    sizes: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
    controls: tuple[str, ...] = LEARNED_CONTROLS
    max_problems: int = 1000
    ablation: str = 'mean'
    seed: int = 0

    def __post_init__(self):
        unknown = [name for name in self.controls if name not in LEARNED_CONTROLS]
        if unknown:
            raise InputError(
                f'controls: {unknown[0]!r} is unknown; choose from {", ".join(LEARNED_CONTROLS)}'
            )
        if not self.sizes or not all(0 < size <= 1 for size in self.sizes):
            raise InputError(
                f'sizes={",".join(map(str, self.sizes))}: name shares of the neurons, above 0 and '
                'at most 1'
            )
        if self.ablation not in ABLATIONS:
            raise InputError(f'ablation={self.ablation!r}: choose from {", ".join(ABLATIONS)}')
        if self.max_problems < 1:
            raise InputError(f'evaluate_problems={self.max_problems}: at least 1 is needed')


def unseen_rows(split: Split, config: CircuitStudyConfig) -> np.ndarray:
    """Returns the problems of unseen forms that are evaluated, at most `max_problems`."""
    order = np.random.default_rng(config.seed).permutation(split.test)
    return np.sort(order[: config.max_problems])


def control_classes(dataset: Dataset, name: str, num_classes: int, seed: int) -> np.ndarray:
    """Returns the fixed classes of a control, int `[N]`."""
    if name == 'one mask':
        return np.zeros(len(dataset), np.int32)
    if name == 'random classes':
        return np.random.default_rng(seed).integers(num_classes, size=len(dataset), dtype=np.int32)
    if name == 'operator classes':
        return dataset.labels['operators']
    if name == 'answer-cut classes':
        return answer_cut_classes(dataset.labels['answer'], num_classes)
    raise ValueError(f'unknown control {name!r}; choose from {", ".join(LEARNED_CONTROLS)}')


def control_searches(
    dataset: Dataset, discovery: DiscoveryConfig, study: CircuitStudyConfig
) -> dict[str, tuple[np.ndarray, DiscoveryConfig]]:
    """Returns for each control that these problems have its fixed classes and its search.

    Raises:
        InputError: a control of more classes than a batch, or a mask generator, has room for.
    """
    searches = {}
    for name in study.controls:
        if name == 'operator classes' and 'operators' not in dataset.labels:
            continue
        classes = control_classes(dataset, name, discovery.num_classes, study.seed)
        try:
            search = dataclasses.replace(discovery, num_classes=int(classes.max()) + 1)
        except InputError as error:
            raise InputError(f'{error}; or leave {name!r} out of controls') from error
        searches[name] = classes, search
    return searches


def discover_controls(
    model: Llama,
    dataset: Dataset,
    split: Split,
    discovery: DiscoveryConfig,
    study: CircuitStudyConfig,
    *,
    mesh: Mesh,
    workdir: epath.Path,
    options: RunOptions = RunOptions(),
) -> dict[str, Circuit]:
    """Learns the masks of each control with the same steps and the same size as the circuits."""
    circuits = {}
    for name, (classes, search) in control_searches(dataset, discovery, study).items():
        found, _ = discover(
            {'model': model},
            dataset,
            split.train,
            search,
            mesh=mesh,
            classes=classes,
            description=f'control: {name}',
            workdir=workdir / name.replace(' ', '_'),
            options=dataclasses.replace(options, check_gradients=False),
        )
        circuits[name] = found['model']
    return circuits


def loudest_neurons(
    model: Llama,
    dataset: Dataset,
    rows: np.ndarray,
    circuit: Circuit,
    *,
    mesh: Mesh,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> Circuit:
    """Returns the control that ranks neurons by their mean |a| on the problems of each class."""
    _, neurons_NxLxF = answer_logits_and_activations(
        model, dataset[rows], mesh=mesh, tokens_per_pass=tokens_per_pass
    )
    classes = circuit.assignments[rows]
    scores = np.zeros_like(circuit.scores)
    for k in range(circuit.num_classes):
        if (classes == k).any():
            scores[k] = np.abs(neurons_NxLxF[classes == k]).mean(axis=0)
    return dataclasses.replace(circuit, scores=scores).at_size(circuit.size)


def study_circuits(
    model: Llama,
    dataset: Dataset,
    split: Split,
    circuit: Circuit,
    controls: Mapping[str, Circuit],
    config: CircuitStudyConfig,
    *,
    mesh: Mesh,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str = 'evaluate circuits',
) -> dict[str, Any]:
    """Measures circuits and controls on problems of unseen canonical forms.

    Args:
        model: the model.
        dataset: all problems, in the order of `circuit.assignments`.
        split: the split by canonical form.
        circuit: the learned circuits.
        controls: circuits of the controls, see `discover_controls` and `loudest_neurons`.
        config: sizes and problems.
        mesh: the mesh.
        tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
        description: name on the progress bar.

    Returns:
        What `circuits.json` holds: accuracy with only the circuit and without it by method and
        size, with bootstrap intervals; faithfulness; the selectivity matrix; agreement of the
        classes with known structure; and what the classes give away of the answer.
    """
    rows = unseen_rows(split, config)
    problems = dataset[rows]
    neurons = model.config.num_neurons
    nominal = {max(round(share * neurons), 1) for share in config.sizes}
    sizes = sorted(nominal | {circuit.size})
    methods = {OURS: circuit, **controls}
    whole = functools.partial(predict, model, problems, mesh=mesh, tokens_per_pass=tokens_per_pass)
    full = whole()
    ablated = functools.partial(whole, fill=circuit.fill, ablation=config.ablation)
    none = ablated(masks=np.zeros_like(circuit.masks))

    total = (len(methods) + 1) * len(sizes) * 2 + 2 * circuit.num_classes
    with progress(total, description, unit='ablation') as bar:

        def measure(masks, classes):
            with_only = ablated(masks=masks, classes=classes)
            without = ablated(masks=1.0 - masks, classes=classes)
            bar.update(2)
            return _point(with_only, without, full, none)

        curves = {}
        for name, method in methods.items():
            classes = method.assignments[rows]
            curves[name] = [measure(method.at_size(size).masks, classes) for size in sizes]
        classes = circuit.assignments[rows]
        curves[RANDOM] = [
            measure(random_masks(circuit.at_size(size).masks, seed=config.seed), classes)
            for size in sizes
        ]
        union = int(circuit.masks.any(axis=0).sum())
        at_union = None
        if 'one mask' in controls:
            one = controls['one mask']
            at_union = measure(one.at_size(union).masks, one.assignments[rows])
        matrix = selectivity_matrix(ablated, circuit.masks, classes)
        bar.update(circuit.num_classes)
        random_matrix = selectivity_matrix(
            ablated, random_masks(circuit.masks, seed=config.seed), classes
        )
        bar.update(circuit.num_classes)

    return {
        'problems': len(problems),
        'accuracy': full.accuracy,
        'accuracy_without_neurons': none.accuracy,
        'neurons': neurons,
        'layers': model.config.num_layers,
        'sizes': sizes,
        'shares': [size / neurons for size in sizes],
        'size': circuit.size,
        'curves': curves,
        'union_size': union,
        'one_mask_at_union_size': at_union,
        'layer_share': circuit.masks.mean(axis=2).tolist(),
        'overlap': circuit.overlap(circuit).tolist(),
        'chance_overlap': circuit.share / (2 - circuit.share),
        'selectivity': {
            'matrix': _plain(matrix),
            'random_matrix': _plain(random_matrix),
            'selectivity': _number(selectivity(matrix)),
            'random_selectivity': _number(selectivity(random_matrix)),
            'accuracy': _plain(full.accuracy_by_class(classes, circuit.num_classes)),
            'counts': np.bincount(classes, minlength=circuit.num_classes).tolist(),
        },
        'classes': study_classes(dataset, rows, circuit),
        'leak': {
            name: {
                'bits': answer_information(method.assignments[rows], problems.answers),
                'most_bits': float(np.log2(method.num_classes)),
                'constant_answer_accuracy': constant_answer_accuracy(
                    method.assignments[rows], problems.answers
                ),
            }
            for name, method in methods.items()
            if name != LOUDEST
        },
    }


def study_classes(dataset: Dataset, rows: np.ndarray, circuit: Circuit) -> dict[str, Any]:
    """Compares classes with the known structure of the problems."""
    classes = circuit.assignments[rows]
    return {
        label: {
            **dataclasses.asdict(agreement(classes, values[rows])),
            'names': list(dataset.label_names[label]),
            'table': class_table(classes, values[rows], circuit.num_classes).tolist(),
        }
        for label, values in dataset.labels.items()
    }


def smallest_faithful_share(study: Mapping[str, Any], kept: float = 0.95) -> float | None:
    """Returns the smallest evaluated share of neurons at which circuits keep `kept` accuracy."""
    for share, point in zip(study['shares'], study['curves'][OURS], strict=True):
        if point['only'] >= kept * study['accuracy']:
            return share
    return None


def _point(only, without, full, none) -> dict[str, Any]:
    m = lambda predictions: float(predictions.logit_difference.mean())
    try:
        faithful = faithfulness(m(only), m(none), m(full))
    except InputError:  # a student that has learned nothing has no faithfulness, and no fault
        faithful = None
    return {
        'only': only.accuracy,
        'only_interval': bootstrap_interval(only.correct),
        'without': without.accuracy,
        'without_interval': bootstrap_interval(without.correct),
        'faithfulness': faithful,
    }


def _plain(matrix: np.ndarray) -> list:
    """Returns nested lists with None for NaN, as JSON has it."""
    if matrix.ndim > 1:
        return [_plain(row) for row in matrix]
    return [_number(x) for x in matrix.tolist()]


def _number(x: float) -> float | None:
    return None if math.isnan(x) else x
