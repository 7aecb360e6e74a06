"""All questions about a model's circuits, asked on one set of unseen problems."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import LEARNED, METHODS, ONE_MASK, Method
from cdjax.data import Dataset, Split
from cdjax.models import Llama
from cdjax.run.options import TOKENS_PER_PASS
from cdjax.run.progress import progress
from cdjax.studies.circuits.ablated import Ablated, Circuits, draw_circuits
from cdjax.studies.circuits.config import (
    CircuitStudyConfig,
    learned_rows,
    sizes_in_neurons,
    unseen_rows,
)
from cdjax.studies.circuits.curves import measure_areas, measure_curve
from cdjax.studies.circuits.living import (
    attribution,
    find_living,
    study_living,
    study_overlap,
    study_ranks,
)
from cdjax.studies.circuits.minimal import study_minimality
from cdjax.studies.circuits.selective import study_methods_selectivity, study_selectivity
from cdjax.studies.circuits.structure import study_classes, study_leak


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
        config: sizes, ablations and problems.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
        description: name on the progress bar.

    Returns:
        What `circuits.json` holds, see docs/artefacts.md.
    """
    rows = unseen_rows(split, config)
    problems, learned = dataset[rows], dataset[learned_rows(split, config)]
    passes = {'mesh': mesh, 'tokens_per_pass': tokens_per_pass}
    rankings = {LEARNED.key: circuit, **rankings}
    methods = {key: METHODS[key] for key in config.methods if key in rankings or METHODS[key].draw}
    living = find_living(model, learned, circuit.fill, **passes)
    neurons = model.config.num_neurons
    sizes = config.measured(neurons, circuit.size)
    first, *others = (
        Ablated(model, problems, circuit.fill, ablation, passes, circuit.num_classes)
        for ablation in config.ablations
    )
    full = first.full
    with progress(len(config.ablations) * (len(methods) + 1), description, unit='method') as bar:
        measure = lambda ablated: _under(
            ablated, circuit, rankings, methods, rows, sizes, living, config, bar
        )
        found = measure(first)
        under_others = {ablated.ablation: measure(ablated) for ablated in others}
    union = int(circuit.masks.any(axis=0).sum())
    at_union = None
    if ONE_MASK.key in rankings:
        masks = rankings[ONE_MASK.key].at_size(union).masks
        classes = rankings[ONE_MASK.key].assignments[rows]
        ((at_union,), _) = measure_curve(first, [Circuits(masks, classes)], living)
    assigned = {METHODS[key].classes: found.assignments for key, found in rankings.items()}
    return {
        'problems': len(problems),
        'accuracy': full.accuracy,
        'probability': full.mean_probability,
        'ablation': first.ablation,
        'neurons': neurons,
        'layers': model.config.num_layers,
        'family': model.family,
        'sizes': sizes,
        'shares': [size / neurons for size in sizes],
        'size': circuit.size,
        'methods': {
            key: facts_of(named(method, circuit) if key == LEARNED.key else method)
            for key, method in methods.items()
        },
        **found,
        'other_ablations': under_others,
        'method_selectivity': study_methods_selectivity(
            first, {k: r for k, r in rankings.items() if k != LEARNED.key}, rows, circuit.size
        ),
        'union_size': union,
        'one_mask_at_union_size': at_union,
        'minimality': study_minimality(first, circuit, circuit.assignments[rows]),
        'living': study_living(first, living),
        'layer_share': circuit.masks.mean(axis=2).tolist(),
        **study_overlap(circuit, living),
        'rank_correlation': study_ranks(
            rankings, attribution(model, learned, circuit.fill, first.ablation, **passes), living
        ),
        'classes': study_classes(dataset, rows, circuit),
        'leak': study_leak(dataset, rows, circuit, config.seed, assigned),
    }


def _under(
    ablated: Ablated,
    circuit: Circuit,
    rankings: Mapping[str, Circuit],
    methods: Mapping[str, Method],
    rows: np.ndarray,
    sizes: list[int],
    living: np.ndarray,
    config: CircuitStudyConfig,
    bar: Any,
) -> dict[str, Any]:
    """Returns what is measured under one ablation."""
    curves, areas = {}, {}
    for key, method in methods.items():
        at_sizes = [_circuits(method, circuit, rankings, rows, n, living, config) for n in sizes]
        curves[key], differences = measure_curve(ablated, at_sizes, living)
        if config.areas:
            areas[key] = measure_areas(ablated, sizes, differences, at_sizes[0].groups)
        bar.update(1)
    selective = study_selectivity(
        ablated,
        circuit,
        circuit.assignments[rows],
        sizes_in_neurons(config.sizes, ablated.model.config.num_neurons),
        living,
        config.seed,
    )
    bar.update(1)
    none = ablated.none
    return {
        'accuracy_without_neurons': none.accuracy,
        'probability_without_neurons': none.mean_probability,
        'curves': curves,
        'areas': areas,
        'selectivity': selective,
    }


def _circuits(
    method: Method,
    circuit: Circuit,
    rankings: Mapping[str, Circuit],
    rows: np.ndarray,
    size: int,
    living: np.ndarray,
    config: CircuitStudyConfig,
) -> Circuits:
    """Returns the circuits of a method at one size."""
    if method.key in rankings:
        ranking = rankings[method.key]
        return Circuits(ranking.at_size(size).masks, ranking.assignments[rows])
    masks, classes = circuit.at_size(size).masks, circuit.assignments[rows]
    return draw_circuits(method, masks, classes, living, config.seed)


def named(learned: Method, circuit: Circuit) -> Method:
    """Returns the method of the circuits themselves, called by how their problems were sorted."""
    scheme = circuit.info.get('classes', LEARNED.classes)
    if scheme == LEARNED.classes:
        return learned
    same = next((m for m in METHODS.values() if m.trains and m.classes == scheme), None)
    other = f'{scheme} classes'
    title, phrase = (same.title, same.phrase) if same else (other, other)
    return dataclasses.replace(learned, title=title, phrase=phrase)


def facts_of(method: Method) -> dict[str, Any]:
    """Returns what a report says of a method, which need not know its registry then."""
    fields = ('title', 'phrase', 'colour', 'line', 'classes', 'draws')
    return {field: getattr(method, field) for field in fields}
