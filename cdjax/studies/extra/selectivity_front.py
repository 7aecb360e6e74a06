"""What does selectivity cost in sufficiency? Searches that ask for it more and more."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.colours import PALETTE
from cdjax.evaluation.statistics import student_interval
from cdjax.studies.circuits import unseen_rows
from cdjax.studies.inputs import Inputs
from cdjax.studies.searches import (
    ablated_model,
    check_any_size,
    keep_and_take_out,
    mean_with_interval,
    search,
    search_ahead,
    study_sizes,
    with_seed,
)
from cdjax.studies.study import STUDIES, Context, Drawing, Result, Section, Study, Table
from cdjax.training.discovery import DiscoveryConfig, check_discovery
from cdjax.wording import NBSP, count, exact_percent, number, percent, sentence

# Part of a circuit that is its class's own, by the name of the form.
FORMS = {'separate': None, 'core': 0.3}
TITLES = {'separate': 'each class by itself', 'core': 'a core and specific parts'}
COLOURS = {'separate': PALETTE['vermillion'], 'core': PALETTE['blue']}


def selectivity_front(
    key: str = 'selectivity_front',
    weights: Sequence[float] = (0.0, 0.3, 1.0, 3.0),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> Study:
    """Returns the study of searches that differ in the weight of the selectivity term alone.

    Completeness, the other half of what makes a circuit selective, has the same weight.

    Args:
        key: of the study.
        weights: of both terms.
        seeds: of each search.
    """

    def check(inputs: Inputs, discovery: DiscoveryConfig, mesh: Mesh) -> None:
        check_any_size(discovery, key)
        shapes = {'teacher': inputs.teacher_config}
        for form in FORMS:
            config = _search(discovery, form, weights[-1], seeds[0])
            check_discovery(
                shapes, inputs.dataset, config, mesh=mesh, batch_flag='discovery_batch_size'
            )

    def measure(context: Context) -> Result:
        sizes = study_sizes(context, context.run.teacher.config.num_neurons)
        searches = {
            _name(form, w, seed): functools.partial(_discover, context, form, w, seed)
            for form in FORMS
            for w in weights
            for seed in seeds
        }
        search_ahead(context, searches)
        points = [
            [[_measure(context, form, w, seed, sizes) for seed in seeds] for w in weights]
            for form in FORMS
        ]
        ablated = ablated_model(context, context.circuit)
        return {
            'forms': list(FORMS),
            'weights': list(weights),
            'seeds': list(seeds),
            'shares': [size / ablated.model.config.num_neurons for size in sizes],
            'accuracy': ablated.full.accuracy,
            'probability': ablated.full.mean_probability,
            'points': points,  # [form][weight][seed][size]
        }

    return Study(key, 'What selectivity costs', measure, present, check)


def _search(discovery: DiscoveryConfig, form: str, weight: float, seed: int) -> DiscoveryConfig:
    weights = dataclasses.replace(
        discovery.objective.weights, completeness=weight, selectivity=weight
    )
    objective = dataclasses.replace(discovery.objective, specific=FORMS[form], weights=weights)
    return with_seed(dataclasses.replace(discovery, objective=objective), seed)


def _name(form: str, weight: float, seed: int) -> str:
    return f'{form}-{weight:g}-{seed}'


def _discover(context: Context, form: str, weight: float, seed: int) -> Circuit:
    config = _search(context.discovery, form, weight, seed)
    what = f'discover: {TITLES[form]}, weight {weight:g}, seed {seed}'
    return search(context, _name(form, weight, seed), config, what)['teacher']


def _measure(
    context: Context, form: str, weight: float, seed: int, sizes: Sequence[int]
) -> list[dict[str, float | None]]:
    """Returns sufficiency, and selectivity of the specific parts, of one search at each size."""
    circuit = _discover(context, form, weight, seed)
    rows = unseen_rows(context.run.inputs.split, context.evaluation)
    return keep_and_take_out(
        ablated_model(context, circuit), circuit, circuit.assignments[rows], sizes
    )


def front(result: Result, field: str) -> np.ndarray:
    """Returns a field of all points, float64 `[forms, weights, seeds, sizes]`; NaN where null."""
    pick = lambda point: np.nan if point[field] is None else point[field]
    return np.array(
        [
            [[[pick(point) for point in seed] for seed in weight] for weight in form]
            for form in result['points']
        ],
        np.float64,
    )


def present(result: Result) -> Section:
    """Returns the section of a report: the front, and the most selective circuits that work."""
    only = front(result, 'only_probability')
    selective = front(result, 'selectivity_probability')
    rows = []
    for f, form in enumerate(result['forms']):
        for w, weight in enumerate(result['weights']):
            cells = []
            for s in range(len(result['shares'])):
                kept = mean_with_interval(only[f, w, :, s], scale=100, digits=0)
                cells.append(f'{kept}; {mean_with_interval(selective[f, w, :, s])}')
            rows.append([f'{TITLES[form]}, {weight:g}', *cells])
    table = Table(
        'By form and weight of the terms, at each size: probability of the answer with only the '
        'circuits in per cent; selectivity of their specific parts in that probability. Mean over '
        f'{count(len(result["seeds"]), "seed")} and Student’s 95 % interval.',
        ['Form, weight', *map(exact_percent, result['shares'])],
        rows,
    )
    drawing = Drawing(
        lambda figure: _draw(figure, result, only, selective),
        'Selectivity of the specific parts over sufficiency, both in the probability of the '
        'answer, means over seeds: a line for each form and weight, darker for more weight, along '
        'it the sizes. Up and to the right is better.',
        'Line chart of selectivity over sufficiency; the table holds its numbers.',
    )
    return Section([_finding(result, only, selective)], [table], [drawing])


def _finding(result: Result, only: np.ndarray, selective: np.ndarray) -> str:
    """Names the most selective circuits among those that keep half of the probability."""
    means, kept = selective.mean(axis=2), only.mean(axis=2)
    works = (kept >= result['probability'] / 2) & np.isfinite(means)
    if not works.any():
        return sentence(
            'at none of the sizes and weights do circuits keep half of the probability of the '
            'answer, so nothing is said of their selectivity'
        )
    f, w, s = np.unravel_index(np.argmax(np.where(works, means, -np.inf)), means.shape)
    interval = student_interval(selective[f, w, :, s])
    between = '' if interval is None else f' [{number(interval[0])},{NBSP}{number(interval[1])}]'
    return sentence(
        'the most selective circuits that keep half of the probability of the answer reach '
        f'{number(float(means[f, w, s]))}{between} in that probability, at '
        f'{exact_percent(result["shares"][s])} of the neurons with '
        f'{TITLES[result["forms"][f]]} and weight {result["weights"][w]:g}; they keep '
        f'{percent(float(kept[f, w, s]))} (chosen on the problems it is reported for, and '
        'slightly optimistic)'
    )


def _draw(figure: Any, result: Result, only: np.ndarray, selective: np.ndarray) -> None:
    ax = figure.subplots()
    shades = np.linspace(0.25, 1, len(result['weights']))
    for f, form in enumerate(result['forms']):
        for w, (weight, shade) in enumerate(zip(result['weights'], shades, strict=True)):
            ax.plot(
                100 * only[f, w].mean(axis=0),
                selective[f, w].mean(axis=0),
                marker='o',
                markersize=3,
                color=COLOURS[form],
                alpha=shade,
                label=f'{TITLES[form]}, {weight:g}',
            )
    ax.axhline(0, linewidth=0.8, linestyle=':', color=PALETTE['muted'])
    ax.set_xlabel('probability of the answer with only the circuits, %')
    ax.set_ylabel('selectivity of the specific parts')
    ax.legend(frameon=False, fontsize=7)


STUDIES.add(selectivity_front())
