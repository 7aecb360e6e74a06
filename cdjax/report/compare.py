"""Two runs side by side: what they answer, what they keep, and in which settings they differ.

Two pipelines, two tables of arms, or one of each; of these the students are compared.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from cdjax.circuits.methods import LEARNED
from cdjax.errors import InputError
from cdjax.report import summary
from cdjax.report.arms_report import holds_table, read_table
from cdjax.report.chart import Chart, Series, percent_axis, share_axis
from cdjax.report.comparisons import Difference, at_circuit_size, difference, table_difference
from cdjax.report.names import start_name
from cdjax.report.svg import mark
from cdjax.report.write import environment, package_version, read_results
from cdjax.run.folder import stored_config, write_atomically
from cdjax.wording import count, exact_percent, percent, percent_interval, plain_lines

NOT_SETTINGS = ('version', 'name')
_COLOURS, _MARKERS = ('blue', 'vermillion'), 'os'


Runs = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]


def read_runs(first: str, second: str) -> Runs:
    """Returns two finished runs: folder → results and config.json.

    Of a table of arms the results are `starts` alone.

    Raises:
        InputError: one of them holds no results, both are the same, or they have nothing in common.
    """
    if os.path.realpath(first) == os.path.realpath(second):
        raise InputError(f'{first} twice: name the folders of two runs')
    runs = {folder: (_read(folder), _config(folder)) for folder in (first, second)}
    circuits = _with_circuits([found for found, _ in runs.values()])
    if not circuits and not any(all(row.rows) for row in arm_rows(runs)):
        raise InputError(
            f'{first} and {second} have no arm of one start in common: name two tables of the '
            'same arms, or two pipelines'
        )
    return runs


def _read(workdir: str) -> Mapping[str, Any]:
    return {'starts': read_table(workdir)} if holds_table(workdir) else read_results(workdir)


def _config(workdir: str) -> Mapping[str, Any]:
    config = stored_config(epath.Path(workdir))
    if config is None:
        raise InputError(f'{workdir} holds results without a config.json: name the folder of a run')
    return config


def _with_circuits(results: Sequence[Mapping[str, Any]]) -> bool:
    return all('circuits' in found for found in results)


def write_comparison(runs: Runs, target: epath.PathLike) -> None:
    """Writes the page that compares two finished runs, as `read_runs` returns them."""
    write_atomically(epath.Path(target), render_comparison(runs))


def render_comparison(runs: Runs) -> str:
    """Returns the page of two runs."""
    results = [found for found, _ in runs.values()]
    circuits = _with_circuits(results)
    studies = {name: found['circuits'] for name, (found, _) in runs.items()} if circuits else {}
    charts = [curves(studies)] if circuits else []
    headline, checks = summary.headline, summary.checks
    if not circuits:
        headline = lambda found: summary.headline_of_starts(found['starts'])
        checks = lambda found: [*summary.checks_of_students({'rediscovery': {}, **found})]
    return (
        environment()
        .get_template('compare.html')
        .render(
            names=list(runs),
            version=package_version(),
            headlines=[headline(found) for found in results],
            checks=check_rows([checks(found) for found in results]),
            methods=method_rows(*studies.values()) if circuits else [],
            sizes=[exact_percent(s['shares'][at_circuit_size(s)]) for s in studies.values()],
            arms=arm_rows(runs),
            settings=differing([config for _, config in runs.values()]),
            chart=charts[0] if circuits else None,
            charts=charts,
        )
    )


def students_lines(runs: Runs) -> str:
    """Returns what the arms of both runs differ by, as plain text; empty where there are none."""
    lines = [
        'Second minus first, in points, paired by seed [95 % over students, without a correction]'
    ]
    for row in arm_rows(runs):
        if row.gap is not None:
            name = f'{start_name(row.start)}: {row.phrase}'
            lines.append(f'  {name:<60} {row.gap.amount}, {count(row.seeds, "seed")}')
    return plain_lines(lines) if len(lines) > 1 else ''


def check_rows(checks: Sequence[Sequence[summary.Check]]) -> list[tuple[str, list[Any]]]:
    """Returns for each question of either run its two answers, None where one does not ask."""
    by_question = [{check.question: check for check in of_run} for of_run in checks]
    questions = dict.fromkeys(question for of_run in by_question for question in of_run)
    return [(question, [of.get(question) for of in by_question]) for question in questions]


def method_rows(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, list[Mapping[str, Any]], Difference]]:
    """Returns for each method of both runs its points at their circuits' sizes, and the gain."""
    rows = []
    for key, curve in first['curves'].items():
        if key in second['curves']:
            a = curve[at_circuit_size(first)]
            b = second['curves'][key][at_circuit_size(second)]
            gap = difference(b['only'], b['only_interval'], a['only'], a['only_interval'])
            rows.append((first['methods'][key]['title'], [a, b], gap))
    return rows


@dataclasses.dataclass(frozen=True)
class ArmRow:
    """The students of an arm in both runs.

    Attributes:
        start: where they started from.
        phrase: the arm, for people.
        rows: of its table in either run, None where it has no such arm.
        seeds: that both have.
        gap: second minus first, paired by these; None where there are none, or the students of the
            two runs were asked other problems.
    """

    start: str
    phrase: str
    rows: list[Mapping[str, Any] | None]
    seeds: int
    gap: Difference | None


def arm_rows(runs: Runs) -> list[ArmRow]:
    """Returns the arms of either run, and what those of both differ by."""
    starts = [results['starts'] for results, _ in runs.values()]
    comparable = _asked_the_same(*(config for _, config in runs.values()))
    tables = [
        {(start, row['arm']): row for start, found in run.items() for row in found['table']}
        for run in starts
    ]
    found = []
    for start, arm in dict.fromkeys(key for table in tables for key in table):
        rows, gap, seeds = [table.get((start, arm)) for table in tables], None, 0
        if all(rows) and comparable:
            gap = table_difference(*(run[start]['runs'] for run in starts), arm)
            seeds = len(set.intersection(*(set(row['seeds']) for row in rows)))
        found.append(ArmRow(start, next(filter(None, rows))['phrase'], rows, seeds, gap))
    return found


def _asked_the_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Tells whether the students of two runs are asked the same problems of unseen forms."""
    names = ['data', 'test', 'split_seed', 'limits', 'only_correct']
    inputs = [config.get('inputs', {}) for config in (first, second)]
    if any(one.get('only_correct') for one in inputs):  # those that the teacher answers
        names.append('teacher_weights')
    asked = [[of.get(name) for name in names] for of in inputs]
    most = [config.get('arms', {}).get('max_problems') for config in (first, second)]
    return asked[0] == asked[1] and most[0] == most[1]


def differing(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the settings in which two configurations differ: dotted name, both as text."""
    flat = [dict(_leaves(config)) for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    return [
        (name, [_shown(one[name]) if name in one else '–' for one in flat])
        for name in names
        if name not in NOT_SETTINGS and flat[0].get(name) != flat[1].get(name)
    ]


def _shown(value: Any) -> str:
    """Returns a value as config.json has it, text and lists without their marks."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value:
        return ', '.join(map(_shown, value))
    return json.dumps(value)


def _leaves(value: Any, name: str = ''):
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f'{name}.{key}'.lstrip('.'))
    else:
        yield name, value


def curves(studies: Mapping[str, Mapping[str, Any]]) -> Chart:
    """Draws what the circuits of each run keep alone, over their size."""
    legend = [
        Series(f'run{i}', name, _COLOURS[i], _MARKERS[i], bold=True)
        for i, name in enumerate(studies)
    ]
    chart = Chart(
        'runs',
        'Accuracy on unseen problems with only the circuits, and without them, over their size; '
        'bands: 95 % intervals.',
        ['run', 'share of neurons', 'only', 'without'],
        [
            [name, share, point['only'], point['without']]
            for name, study in studies.items()
            for share, point in zip(study['shares'], study['curves'][LEARNED.key], strict=True)
        ],
        legend,
    )
    for field, title in (('only', 'With only the circuits'), ('without', 'Without them')):
        described = f'Line chart of accuracy over size, for {" and ".join(studies)}.'
        with chart.panel(title, described) as figure:
            ax = figure.subplots()
            for series, study in zip(legend, studies.values(), strict=True):
                x, points = study['shares'], study['curves'][LEARNED.key]
                low, high = ([100 * p[f'{field}_interval'][i] for p in points] for i in (0, 1))
                band = ax.fill_between(x, low, high, color=series.ink, alpha=0.14, linewidth=0)
                mark(band, series=series.slug)
                (line,) = ax.plot(x, [100 * p[field] for p in points], **series.line)
                tips = [
                    f'{series.title}, {exact_percent(s)}: {percent(p[field], 1)} '
                    f'{percent_interval(p[f"{field}_interval"])}'
                    for s, p in zip(x, points, strict=True)
                ]
                mark(line, series=series.slug, tips=tips)
            share_axis(
                ax, sorted({share for study in studies.values() for share in study['shares']})
            )
            percent_axis(ax)
            ax.set_ylabel('of unseen problems')
    return chart
