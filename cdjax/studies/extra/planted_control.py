"""Does the search find what is there, and nothing where nothing is? The controls that ship."""

import functools
from collections.abc import Callable
from typing import Any

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import METHODS, ONE_MASK
from cdjax.planted import PLANTED_TEACHERS
from cdjax.planted.ground_truth import GroundTruth
from cdjax.studies.circuits import CircuitStudyConfig, facts_of, unseen_rows
from cdjax.studies.ground_truth import planted_in, study_recovery
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.methods import methods_by_default, run_methods
from cdjax.studies.run import Run
from cdjax.studies.settle.planted import measure, search
from cdjax.studies.settle.protocol import PlantedProtocol
from cdjax.studies.settle.verdicts import REFUTED, judge
from cdjax.studies.study import STUDIES, Context, Recovery, Result, Section, Study, Table
from cdjax.wording import number, sentence

POSITIVE, NEGATIVE = 'lookup', 'null'
OUTCOMES = {True: 'passed', False: 'failed'}


def measured(context: Context) -> Result:
    """Searches once in each of the small planted teachers, see `cdjax.planted.PLANTED_TEACHERS`."""
    return {name: _measured(context, name) for name in (POSITIVE, NEGATIVE)}


def _measured(context: Context, name: str) -> dict[str, Any]:
    protocol, of = PlantedProtocol(), context.run
    inputs = InputsConfig(task=protocol.teacher.inputs.task, teacher=str(PLANTED_TEACHERS / name))
    run = Run(Inputs(inputs), context.stages / name, of.mesh, of.options)
    discover = functools.partial(search, run, protocol.discovery, name)
    seed, most = protocol.seeds[0], protocol.problems
    found, truth = measure(run, discover, seed, most), planted_in(run)
    return found if truth is None else found | by_method(run, truth, discover, seed, most)


def by_method(
    run: Run, truth: GroundTruth, discover: Callable[[int, int], Circuit], seed: int, most: int
) -> dict[str, Any]:
    """Returns what every method that needs no training of its own finds, beside the search.

    Args:
        run: the run of the planted teacher.
        truth: its ground truth.
        discover: `(number of classes, seed) -> Circuit`; with one class it is one mask for all.
        seed: of the search, and of masks that are drawn.
        most: problems of unseen forms that are answered, at most.

    Returns:
        `recovery`, what `study_recovery` returns, and `methods`, what is said of each method.
    """
    keys = methods_by_default(trained=False)
    config = CircuitStudyConfig(methods=(ONE_MASK.key, *keys), max_problems=most, seed=seed)
    learned, one = discover(truth.num_classes, seed), discover(1, seed)
    dataset, split = run.inputs.dataset, run.inputs.split
    rankings = run_methods(
        keys,
        run.teacher,
        dataset,
        split.train,
        learned,
        ablation=config.ablation,
        seed=seed,
        mesh=run.mesh,
        options=run.options,
    )
    recovery = study_recovery(
        truth,
        run.teacher,
        learned,
        {ONE_MASK.key: one, **rankings},
        config.methods,
        dataset,
        unseen_rows(split, config),
        seed=seed,
        **run.passes,
    )
    return {
        'recovery': recovery,
        'methods': {key: facts_of(METHODS[key]) for key in recovery['methods']},
    }


def present(result: Result) -> Section:
    """Returns the section of a report: the gates, and what one search reached."""
    protocol = PlantedProtocol()
    rows, failed = [], []
    for name, figures in result.items():
        gates = protocol.gates if name != NEGATIVE else (protocol.no_classes,)
        for gate in gates:
            value = figures['selectivity' if name == NEGATIVE else gate.key]
            passed = value is not None and judge(gate, value, None)['verdict'] != REFUTED
            failed += [] if passed else [gate.text]
            sign = '≥' if gate.above else '≤'
            rows.append(
                [gate.text, name, f'{sign} {number(gate.bound)}', number(value), OUTCOMES[passed]]
            )
    table = Table(
        'One search in teachers that ship with the package: circuits are planted in one, nothing '
        'in the other. At the size of what is planted, on unseen problems.',
        ['Gate', 'Teacher', 'Asked', 'Found', 'Verdict'],
        rows,
    )
    told = f'of {len(rows)} gates the search passes {len(rows) - len(failed)}'
    if failed:
        told += f'; it fails {", ".join(failed)}'
    recoveries = [
        Recovery(figures['recovery'], figures['methods'])
        for figures in result.values()
        if 'recovery' in figures
    ]
    finding = sentence(f'{told} (one teacher and one seed; see settle for more)')
    return Section([finding], [table], recoveries=recoveries)


STUDIES.add(Study('planted_control', 'What is known is found', measured, present))
