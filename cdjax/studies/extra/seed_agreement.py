"""Does another seed find the same circuits and the same classes?"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.errors import InputError
from cdjax.evaluation.classes import agreement
from cdjax.evaluation.faithfulness import SIZES, areas_over_seeds
from cdjax.evaluation.matching import chance_of_matching, matched_overlap
from cdjax.studies.circuits import learned_rows, unseen_rows
from cdjax.studies.circuits.config import sizes_in_neurons
from cdjax.studies.circuits.living import find_living
from cdjax.studies.inputs import Inputs
from cdjax.studies.searches import (
    ablated_model,
    keep_at_sizes,
    search,
    search_ahead,
    study_sizes,
    with_seed,
)
from cdjax.studies.study import STUDIES, Context, Result, Section, Study, Table
from cdjax.training.discovery import DiscoveryConfig, check_discovery
from cdjax.wording import count, exact_percent, number, sentence


def seed_agreement(key: str = 'seed_agreement', seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> Study:
    """Returns the study of searches that differ in the seed alone.

    Args:
        key: of the study.
        seeds: at least two.
    """

    def check(inputs: Inputs, discovery: DiscoveryConfig, mesh: Mesh) -> None:
        shapes = {'teacher': inputs.teacher_config}
        check_discovery(
            shapes, inputs.dataset, discovery, mesh=mesh, batch_flag='discovery_batch_size'
        )

    def measure(context: Context) -> Result:
        run = context.run
        searches = {str(seed): functools.partial(_discover, context, seed) for seed in seeds}
        search_ahead(context, searches)
        circuits = [_discover(context, seed) for seed in seeds]
        learned = run.inputs.dataset[learned_rows(run.inputs.split, context.evaluation)]
        living = find_living(run.teacher, learned, circuits[0].fill, **run.passes)
        sizes = study_sizes(context, run.teacher.config.num_neurons)
        test = run.inputs.split.test
        pairs = []
        for a, b in itertools.combinations(range(len(seeds)), 2):
            masks = [[circuits[i].at_size(size).masks for i in (a, b)] for size in sizes]
            classes = agreement(circuits[a].assignments[test], circuits[b].assignments[test])
            pairs.append(
                {
                    'seeds': [seeds[a], seeds[b]],
                    'overlap': [matched_overlap(*both, living) for both in masks],
                    'chance_overlap': [chance_of_matching(*both, living) for both in masks],
                    'nmi': classes.nmi,
                    'chance_nmi': classes.chance_nmi,
                    'ari': classes.ari,
                    'chance_ari': classes.chance_ari,
                }
            )
        return {
            'seeds': list(seeds),
            'classes': circuits[0].num_classes,
            'shares': [size / run.teacher.config.num_neurons for size in sizes],
            'living': int(living.sum()),
            'neurons': run.teacher.config.num_neurons,
            'pairs': pairs,
            'areas': _areas(context, circuits),
        }

    return Study(key, 'Whether seeds agree', measure, present, check)


def _discover(context: Context, seed: int) -> Circuit:
    config = with_seed(context.discovery, seed)
    return search(context, str(seed), config, f'discover: seed {seed}')['teacher']


def _areas(context: Context, circuits: Sequence[Circuit]) -> dict[str, Any] | None:
    """Returns CPR and CMD of the circuits, None where not asked for, or not defined."""
    if not context.evaluation.areas:
        return None
    ablated = ablated_model(context, circuits[0])
    nominal = sizes_in_neurons(SIZES, ablated.model.config.num_neurons)
    rows = unseen_rows(context.run.inputs.split, context.evaluation)
    differences_ZxSxN = [
        [said.logit_difference for said in keep_at_sizes(ablated, circuit, rows, nominal)]
        for circuit in circuits
    ]
    ends = (ablated.none.logit_difference, ablated.full.logit_difference)
    try:
        found = areas_over_seeds(np.array(SIZES), np.array(differences_ZxSxN), *ends)
    except InputError:  # a teacher that answers nothing has no faithfulness, and no fault
        return None
    return dataclasses.asdict(found)


def present(result: Result) -> Section:
    """Returns the section of a report: overlap and classes of all pairs of seeds."""
    pairs = result['pairs']
    rows = []
    for name, field in (('found', 'overlap'), ('by chance', 'chance_overlap')):
        values = np.array([pair[field] for pair in pairs])
        spans = zip(values.mean(axis=0), values.min(axis=0), values.max(axis=0), strict=True)
        rows.append(
            [name, *(f'{number(m)} ({number(low)} to {number(high)})' for m, low, high in spans)]
        )
    table = Table(
        'Intersection over union, among living neurons, of circuits of two seeds that are matched '
        f'for the most: mean and range over {count(len(pairs), "pair")} of seeds (pairs share '
        'seeds, so this is no interval). By chance: random living neurons, as many in each layer, '
        'matched likewise.',
        ['Overlap', *map(exact_percent, result['shares'])],
        rows,
    )
    return Section([_finding(result)], [table, *_areas_table(result)])


def _areas_table(result: Result) -> list[Table]:
    areas = result.get('areas')  # earlier versions measured none
    if areas is None:
        return []
    seeds = count(len(result['seeds']), 'seed')
    return [
        Table(
            f'Areas of faithfulness over size, mean over {seeds}; the interval is over seeds and '
            'problems. CPR is that under the curve, CMD that between it and 1.',
            ['Area', 'mean', '95 %'],
            [
                [name.upper(), number(areas[name]), _span(areas[f'{name}_interval'])]
                for name in ('cpr', 'cmd')
            ],
        )
    ]


def _span(interval: Sequence[float]) -> str:
    return ' to '.join(map(number, interval))


def _finding(result: Result) -> str:
    pairs = result['pairs']
    overlap = np.array([pair['overlap'] for pair in pairs]).mean(axis=0)
    chance = np.array([pair['chance_overlap'] for pair in pairs]).mean(axis=0)
    at = int(np.argmax(overlap - chance))
    head = (
        f'circuits of two seeds overlap most beyond chance at '
        f'{exact_percent(result["shares"][at])} of the neurons, {number(float(overlap[at]))} '
        f'against {number(float(chance[at]))}'
    )
    if result['classes'] < 2:
        return sentence(head)
    ari = [pair['ari'] for pair in pairs]
    below = max(pair['chance_ari'] for pair in pairs)
    beyond = sum(pair['ari'] > pair['chance_ari'] for pair in pairs)
    return sentence(
        f'{head}; their classes agree with ARI {number(float(np.mean(ari)))} ({number(min(ari))} '
        f'to {number(max(ari))}; 95 % of permuted classes stay below {number(below, 3)}), beyond '
        f'chance in {beyond} of {count(len(pairs), "pair")}'
    )


STUDIES.add(seed_agreement())
