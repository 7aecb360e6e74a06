"""The study of a model's circuits, beside those of every other method at equal size."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.ablation import ABLATIONS
from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import LEARNED, METHODS, ONE_MASK, RANDOM_MASKS, Method
from cdjax.data import Dataset, Split
from cdjax.errors import InputError
from cdjax.evaluation.classes import (
    agreement,
    answer_information,
    class_table,
    constant_answer_accuracy,
)
from cdjax.evaluation.faithfulness import faithfulness
from cdjax.evaluation.selectivity import (
    correct_without,
    selectivity,
    selectivity_interval,
    selectivity_matrix,
)
from cdjax.evaluation.statistics import bootstrap_interval
from cdjax.inference.predictions import Predictions, predict
from cdjax.models import Llama
from cdjax.run.metrics import progress
from cdjax.run.options import TOKENS_PER_PASS
from cdjax.studies.methods import methods_by_default


@dataclasses.dataclass(frozen=True)
class CircuitStudyConfig:
    """How circuits are evaluated.

    Attributes:
        sizes: sizes of the circuits as shares of all neurons; their own size is measured too.
        methods: keys of `cdjax.circuits.methods.METHODS`, what the circuits are held against; if
            None, all that are run by default. The circuits studied are `learned`, and always there.
        max_problems: problems of unseen forms that are evaluated, at most.
        ablation: what the neurons outside a circuit become, see `cdjax.circuits.ablation`.
        seed: of methods that draw, and of the choice of problems.
    """

    sizes: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
    methods: tuple[str, ...] | None = None
    max_problems: int = 1000
    ablation: str = 'mean'
    seed: int = 0

    def __post_init__(self):
        methods = methods_by_default() if self.methods is None else self.methods
        known = [METHODS[key].key for key in methods]  # an unknown one is refused
        object.__setattr__(self, 'methods', tuple(dict.fromkeys([LEARNED.key, *known])))
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


def study_circuits(
    model: Llama,
    dataset: Dataset,
    split: Split,
    circuit: Circuit,
    rankings: Mapping[str, Circuit],
    config: CircuitStudyConfig,
    *,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str = 'evaluate circuits',
) -> dict[str, Any]:
    """Measures circuits, beside those of other methods, on problems of unseen canonical forms.

    Args:
        model: the model.
        dataset: all problems, in the order of `circuit.assignments`.
        split: the split by canonical form.
        circuit: the circuits that are studied.
        rankings: circuits of the methods that score neurons, by key, see `run_methods`.
        config: sizes and problems.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
        description: name on the progress bar.

    Returns:
        What `circuits.json` holds: accuracy with only the circuit and without it by method and
        size, with bootstrap intervals over problems, and over draws where masks are drawn;
        faithfulness; the selectivity matrix; agreement of the classes with known structure; and
        what the classes give away of the answer.
    """
    rows = unseen_rows(split, config)
    problems = dataset[rows]
    neurons = model.config.num_neurons
    nominal = {max(round(share * neurons), 1) for share in config.sizes}
    sizes = sorted(nominal | {circuit.size})
    rankings = {LEARNED.key: circuit, **rankings}
    methods = {key: METHODS[key] for key in config.methods if key in rankings or METHODS[key].draw}
    whole = functools.partial(predict, model, problems, mesh=mesh, tokens_per_pass=tokens_per_pass)
    full = whole()
    ablated = functools.partial(whole, fill=circuit.fill, ablation=config.ablation)
    none = ablated(masks=np.zeros_like(circuit.masks))

    def masks_of(key: str, size: int) -> list[np.ndarray]:
        if key in rankings:
            return [rankings[key].at_size(size).masks]
        return draw_masks(methods[key], circuit.at_size(size).masks, config.seed)

    def measure(masks: Sequence[np.ndarray], classes: np.ndarray) -> dict[str, Any]:
        only = [ablated(masks=m, classes=classes) for m in masks]
        without = [ablated(masks=~m, classes=classes) for m in masks]
        return _point(only, without, full, none)

    steps = (len(methods) + 1) * len(sizes)
    with progress(steps, description, unit='size') as bar:
        curves, leak = {}, {}
        for key, method in methods.items():
            sorted_by = rankings.get(key, circuit)
            classes = sorted_by.assignments[rows]
            curves[key] = []
            for size in sizes:
                curves[key].append(measure(masks_of(key, size), classes))
                bar.update(1)
            if key == LEARNED.key or method.classes != LEARNED.classes:
                leak[key] = _leak(classes, sorted_by.num_classes, problems.answers)
        union, at_union = int(circuit.masks.any(axis=0).sum()), None
        if ONE_MASK.key in rankings:
            classes = rankings[ONE_MASK.key].assignments[rows]
            at_union = measure(masks_of(ONE_MASK.key, union), classes)
        selective = _selectivity(ablated, circuit, rows, full, config.seed)
        bar.update(len(sizes))

    return {
        'problems': len(problems),
        'accuracy': full.accuracy,
        'accuracy_without_neurons': none.accuracy,
        'neurons': neurons,
        'layers': model.config.num_layers,
        'sizes': sizes,
        'shares': [size / neurons for size in sizes],
        'size': circuit.size,
        'methods': {key: _facts(method) for key, method in methods.items()},
        'curves': curves,
        'union_size': union,
        'one_mask_at_union_size': at_union,
        'layer_share': circuit.masks.mean(axis=2).tolist(),
        'overlap': circuit.overlap(circuit).tolist(),
        'chance_overlap': circuit.share / (2 - circuit.share),
        'selectivity': selective,
        'classes': study_classes(dataset, rows, circuit),
        'leak': leak,
    }


def draw_masks(method: Method, masks: np.ndarray, seed: int) -> list[np.ndarray]:
    """Returns all draws of a method that draws masks like `masks`, bool `[K, L, U]` each."""
    return [method.draw(masks, seed=seed + i) for i in range(method.draws)]


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
    for share, point in zip(study['shares'], study['curves'][LEARNED.key], strict=True):
        if point['only'] >= kept * study['accuracy']:
            return share
    return None


def _facts(method: Method) -> dict[str, Any]:
    """Returns what a report says of a method, which need not know its registry then."""
    fields = ('title', 'phrase', 'colour', 'line', 'classes', 'draws')
    return {field: getattr(method, field) for field in fields}


def _point(
    only: Sequence[Predictions],
    without: Sequence[Predictions],
    full: Predictions,
    none: Predictions,
) -> dict[str, Any]:
    """Returns one method at one size: means over draws of masks, and their intervals."""
    m = lambda *predictions: float(np.mean([p.logit_difference.mean() for p in predictions]))
    try:
        faithful = faithfulness(m(*only), m(none), m(full))
    except InputError:  # a student that has learned nothing has no faithfulness, and no fault
        faithful = None
    return {
        'only': float(np.mean([p.accuracy for p in only])),
        'only_interval': _interval(only),
        'without': float(np.mean([p.accuracy for p in without])),
        'without_interval': _interval(without),
        'faithfulness': faithful,
    }


def _interval(predictions: Sequence[Predictions]) -> tuple[float, float]:
    correct = np.stack([p.correct for p in predictions])
    return bootstrap_interval(correct if len(correct) > 1 else correct[0])


def _leak(classes: np.ndarray, num_classes: int, answers: np.ndarray) -> dict[str, float]:
    return {
        'bits': answer_information(classes, answers),
        'most_bits': float(np.log2(num_classes)),
        'constant_answer_accuracy': constant_answer_accuracy(classes, answers),
    }


def _selectivity(ablated, circuit: Circuit, rows, full: Predictions, seed: int) -> dict[str, Any]:
    """Returns the selectivity of circuits, and of random masks like them, over all their draws."""
    classes, K = circuit.assignments[rows], circuit.num_classes
    own = correct_without(ablated, circuit.masks)[None]
    drawn = draw_masks(RANDOM_MASKS, circuit.masks, seed)
    random = np.stack([correct_without(ablated, masks) for masks in drawn])
    matrix, random_matrix = (selectivity_matrix(c.mean(axis=0), classes) for c in (own, random))
    return {
        'matrix': _plain(matrix),
        'random_matrix': _plain(random_matrix),
        'selectivity': _number(selectivity(matrix)),
        'interval': selectivity_interval(own, classes),
        'random_selectivity': _number(selectivity(random_matrix)),
        'random_interval': selectivity_interval(random, classes),
        'accuracy': _plain(full.accuracy_by_class(classes, K)),
        'counts': np.bincount(classes, minlength=K).tolist(),
    }


def _plain(matrix: np.ndarray) -> list:
    """Returns nested lists with None for NaN, as JSON has it."""
    if matrix.ndim > 1:
        return [_plain(row) for row in matrix]
    return [_number(x) for x in matrix.tolist()]


def _number(x: float) -> float | None:
    return None if math.isnan(x) else x
