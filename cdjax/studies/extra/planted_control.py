"""Does the search find what is there, and nothing where nothing is? The controls that ship."""

import functools
from collections.abc import Sequence
from typing import Any

from cdjax.planted import PLANTED_TEACHERS
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.run import Run
from cdjax.studies.settle.planted import measure, search
from cdjax.studies.settle.protocol import PlantedProtocol
from cdjax.studies.settle.verdicts import REFUTED, judge
from cdjax.studies.study import STUDIES, Context, Result, Section, Study, Table
from cdjax.wording import number, sentence

POSITIVE, NEGATIVE = 'lookup', 'null'
OUTCOMES = {True: 'passed', False: 'failed'}


def planted_control(
    key: str = 'planted_control', teachers: Sequence[str] = (POSITIVE, NEGATIVE)
) -> Study:
    """Returns the study of one search in each of the small planted teachers.

    Args:
        key: of the study.
        teachers: folders of `cdjax.planted.PLANTED_TEACHERS`; that named `null` has nothing in it.
    """

    def measured(context: Context) -> Result:
        return {name: _measured(context, name) for name in teachers}

    return Study(key, 'What is known is found', measured, present)


def _measured(context: Context, name: str) -> dict[str, Any]:
    protocol, of = PlantedProtocol(), context.run
    inputs = InputsConfig(task=protocol.teacher.inputs.task, teacher=str(PLANTED_TEACHERS / name))
    run = Run(Inputs(inputs), context.stages / name, of.mesh, of.options)
    discover = functools.partial(search, run, protocol.discovery, name)
    return measure(run, discover, protocol.seeds[0], protocol.problems)


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
        ['Gate', 'Teacher', 'Asked', 'Found', ''],
        rows,
    )
    told = f'of {len(rows)} gates the search passes {len(rows) - len(failed)}'
    if failed:
        told += f'; it fails {", ".join(failed)}'
    return Section([sentence(f'{told} (one teacher and one seed; see settle for more)')], [table])


STUDIES.add(planted_control())
