"""Does the number of classes matter? The text has it that its precise value is not critical."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.colours import PALETTE
from cdjax.evaluation.classes import answer_information, chance_information
from cdjax.evaluation.statistics import student_interval
from cdjax.inference.predictions import predict
from cdjax.studies.circuits import unseen_rows
from cdjax.studies.inputs import Inputs
from cdjax.studies.searches import (
    ablated_model,
    keep_at_sizes,
    mean_with_interval,
    search,
    search_ahead,
    study_sizes,
)
from cdjax.studies.study import (
    STUDIES,
    Context,
    Drawing,
    Result,
    Section,
    Study,
    Table,
)
from cdjax.training.discovery import DiscoveryConfig, check_discovery
from cdjax.wording import count, exact_percent, listing, number, percent, points, sentence


def number_of_classes(
    key: str = 'num_classes',
    counts: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> Study:
    """Returns the study of discoveries that differ in the number of classes and in the seed alone.

    Args:
        key: of the study.
        counts: numbers of classes, K.
        seeds: of each discovery.
    """

    def check(inputs: Inputs, discovery: DiscoveryConfig, mesh: Mesh) -> None:
        for num_classes in counts:
            check_discovery(
                {'teacher': inputs.teacher_config},
                inputs.dataset,
                _search(discovery, num_classes, seeds[0]),
                mesh=mesh,
                batch_flag='discovery_batch_size',
            )

    def measure(context: Context) -> Result:
        run = context.run
        rows = unseen_rows(run.inputs.split, context.evaluation)
        problems = run.inputs.dataset[rows]
        neurons = run.teacher.config.num_neurons
        sizes = study_sizes(context, neurons)
        searches = {
            _name(K, seed): functools.partial(_discover, context, K, seed)
            for K in counts
            for seed in seeds
        }
        search_ahead(context, searches)
        only, bits, chance = [], [], []
        for num_classes in counts:
            circuits = [_discover(context, num_classes, seed) for seed in seeds]
            only.append([_only(context, c, rows, sizes) for c in circuits])
            classes = [circuit.assignments[rows] for circuit in circuits]
            bits.append([answer_information(of, problems.answer_ids) for of in classes])
            chance.append([chance_information(of, problems.answer_ids) for of in classes])
        return {
            'counts': list(counts),
            'seeds': list(seeds),
            'shares': [size / neurons for size in sizes],
            'accuracy': predict(run.teacher, problems, **run.passes).accuracy,
            'only': only,
            'bits': bits,
            'chance_bits': chance,
        }

    title = 'The number of classes'
    return Study(key, title, measure, present, check)


def _search(discovery: DiscoveryConfig, num_classes: int, seed: int) -> DiscoveryConfig:
    objective = discovery.objective.suited_to(num_classes)
    return dataclasses.replace(discovery, objective=objective, num_classes=num_classes, seed=seed)


def _name(num_classes: int, seed: int) -> str:
    return f'{num_classes}-{seed}'


def _discover(context: Context, num_classes: int, seed: int) -> Circuit:
    config = _search(context.discovery, num_classes, seed)
    what = f'discover: {count(num_classes, "class", "classes")}, seed {seed}'
    return search(context, _name(num_classes, seed), config, what)['teacher']


def _only(
    context: Context, circuit: Circuit, rows: np.ndarray, sizes: Sequence[int]
) -> list[float]:
    """Returns the accuracy on unseen problems with only the circuits, at each size."""
    kept = keep_at_sizes(ablated_model(context, circuit), circuit, rows, sizes)
    return [predictions.accuracy for predictions in kept]


def present(result: Result) -> Section:
    """Returns the section of a report: accuracy by number of classes and size."""
    shares, counts = result['shares'], result['counts']
    only = np.array(result['only'])  # [K, seeds, sizes]
    means = only.mean(axis=1)
    rows = []
    # Earlier versions told no chance.
    chance = result.get('chance_bits', [[None]] * len(counts))
    for k, of_seeds, bits, by_chance in zip(counts, only, result['bits'], chance, strict=True):
        cells = [
            mean_with_interval(of_seeds[:, i], scale=100, digits=1) for i in range(len(shares))
        ]
        guessed = None if None in by_chance else float(np.mean(by_chance))
        rows.append([str(k), *cells, number(float(np.mean(bits))), number(guessed)])
    table = Table(
        f'Accuracy in per cent on unseen problems with only the circuits, mean over '
        f'{count(len(result["seeds"]), "seed")} of the discovery and Student’s 95 % interval; '
        f'bits of the answer that the class tells, and that a permuted one seems to tell, of '
        f'as few problems.',
        ['Classes', *map(exact_percent, shares), 'Bits', 'by chance'],
        rows,
    )
    drawing = Drawing(
        lambda figure: _draw(figure, result, means),
        'Accuracy on unseen problems with only the circuits over their size, by the number of '
        'classes: means over seeds.',
        f'Line chart of accuracy over circuit size for {listing(list(map(str, counts)))} classes; '
        'the table holds its numbers.',
    )
    return Section([_finding(only, means, result)], [table], [drawing])


def _finding(only: np.ndarray, means: np.ndarray, result: Result) -> str:
    """Says where the number of classes matters most, and whether more than seeds do."""
    spread = means.max(axis=0) - means.min(axis=0)
    at = int(spread.argmax())
    best, worst = int(means[:, at].argmax()), int(means[:, at].argmin())
    counts = result['counts']
    head = (
        f'the number of classes matters most at {exact_percent(result["shares"][at])} of the '
        f'neurons, where {count(counts[best], "class", "classes")} keep '
        f'{percent(float(means[best, at]))} of the answers, and '
        f'{count(counts[worst], "class", "classes")} {percent(float(means[worst, at]))}'
    )
    interval = student_interval(only[best, :, at] - only[worst, :, at])
    if interval is None:
        return sentence(f'{head}; one seed tells nothing of how much seeds differ')
    difference = f'{points(float(spread[at]))} points, 95 % interval by seed {points(interval[0])} '
    difference += f'to {points(interval[1])}'
    told = 'more than seeds explain' if interval[0] > 0 else 'not told apart from seeds'
    return sentence(f'{head} ({difference}), {told}')


def _draw(figure: Any, result: Result, means: np.ndarray) -> None:
    ax = figure.subplots()
    shades = np.linspace(0.25, 1, len(means))
    sizes = [100 * share for share in result['shares']]
    for k, curve, shade in zip(result['counts'], 100 * means, shades, strict=True):
        ax.plot(
            sizes,
            curve,
            marker='o',
            markersize=3,
            color=PALETTE['blue'],
            alpha=shade,
            label=f'K = {k}',
        )
    ax.axhline(100 * result['accuracy'], linewidth=0.8, linestyle=':', color=PALETTE['muted'])
    ax.set_xscale('log')
    ax.set_xticks(sizes, [f'{size:.3g}' for size in sizes], fontsize=8)
    ax.minorticks_off()
    ax.set_xlabel('neurons in the circuit, % of all (log scale)')
    ax.set_ylabel('unseen problems answered right, %')
    ax.set_ylim(0, 103)
    ax.legend(frameon=False)


STUDIES.add(number_of_classes())
