"""How trainings went: the terms of a discovery, the gradients of its terms, and the arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from cdjax.colours import PALETTE
from cdjax.distillation.arms import CIRCUITS
from cdjax.report.chart import Chart, Series, marker, percent_axis, true_minus
from cdjax.report.names import start_name
from cdjax.report.svg import mark
from cdjax.wording import number

History = Sequence[Mapping[str, Any]]
NO_TERMS = {'step', 'time', 'loss', 'gradient', 'steps_per_second', 'tokens_per_second', 'mfu'}
SMALL = (2.1, 1.75)
# What to know of the terms of an objective when their curves are read.
_OF_TERMS = {
    'any_size': 'Faithfulness is the mean over sizes of the logarithm of the KL, and kl its plain '
    'mean; usage is minus the mutual information of class and problem; all in nats.',
    'causal': 'Usage is minus the mutual information of class and problem, in nats; sparsity is '
    'faded in over the second part of the steps.',
}


def discovery_curves(history: History, objective: str) -> Chart | None:
    """Draws the terms of a discovery's objective over its steps; None without any."""
    names = dict.fromkeys(name for point in history for name in point)
    terms = [name for name in names if name not in NO_TERMS and '/' not in name]
    if not terms:
        return None
    first = f'Terms of the {objective.replace("_", " ")} objective of the discovery in the teacher'
    logged = [point for point in history if any(point.get(name) is not None for name in terms)]
    chart = Chart(
        'discovery',
        f'{first}, before weighting, over its steps. {_OF_TERMS.get(objective, "")}'.strip(),
        ['step', *terms],
        [[point['step'], *(point.get(name) for name in terms)] for point in logged],
    )
    for name in terms:
        drawn = [(p['step'], p[name]) for p in logged if p.get(name) is not None]
        steps, values = zip(*drawn, strict=True)
        described = (
            f'Line chart of {name} over {steps[-1]:,} steps, at the end {number(values[-1])}.'
        )
        title = name.replace('_', ' ')
        with chart.panel(title, described, SMALL) as figure:
            ax = figure.subplots()
            (line,) = ax.plot(
                steps, values, 'o', ls='-', color=PALETTE['blue'], linewidth=1.4, markersize=1.2
            )
            mark(line, tips=[f'step {s:,}: {number(v, 3)}' for s, v in drawn])
            ax.set_xlim(0, steps[-1])
            ax.set_xlabel('step', fontsize=8)
            ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            ax.yaxis.set_major_locator(MaxNLocator(4))
            true_minus(ax.yaxis)
    return chart


def gradient_rows(histories: Mapping[str, History]) -> list[dict[str, Any]]:
    """Returns what the gradient doctor found: a row for each training, step and term.

    Each has `training`, `step`, `term`, `value`, `gradient` (L2 norm), `angle` (degrees to the
    gradient of the task, None where either is zero).
    """
    rows = []
    for training, history in histories.items():
        for point in history:
            told = [name.split('/') for name in point if name.startswith('diagnostics/')]
            for term in dict.fromkeys(parts[1] for parts in told):
                figures = {
                    field: point.get(f'diagnostics/{term}/{field}')
                    for field in ('value', 'gradient', 'angle')
                }
                if figures['value'] or figures['gradient']:  # else the training has it not
                    row = {'training': training, 'step': point['step'], 'term': term}
                    rows.append(row | figures)
    return rows


def arm_series(found: Mapping[str, Any]) -> list[Series]:
    """Returns the legend of the arms of a start."""
    return [
        Series(
            row['arm'],
            row['phrase'],
            row['colour'],
            marker(i),
            bold=row['arm'] == CIRCUITS.key,
        )
        for i, row in enumerate(found['table'])
    ]


def arm_curves(start: str, found: Mapping[str, Any]) -> Chart:
    """Draws accuracy, task loss and alignment of every arm over the steps: seeds, and means."""
    legend, runs = arm_series(found), found['runs']
    panels = [('Accuracy on unseen problems', _points(runs, 'curve', 1, 100), '% right')]
    panels += [
        (title, points, unit)
        for i, title, unit in (
            (1, 'Task loss', 'nats'),
            (2, 'Alignment loss', '1 − similarity'),
        )
        if (points := _points(runs, 'losses', i)) and any(y != 0 for *_, y in points)
    ]
    rows = [[title, *point] for title, points, _ in panels for point in points]
    chart = Chart(
        f'arms-{start}',
        f'Students from {start_name(start)} over the steps of their distillation: thin lines are '
        'seeds, thick ones their means.',
        ['measure', 'arm', 'seed', 'step', 'value'],
        rows,
        legend,
    )
    for title, points, unit in panels:
        ends = '; '.join(
            f'{s.title} {number(points_of(points, s.key)[-1][1])}'
            for s in legend
            if points_of(points, s.key)
        )
        described = (
            f'Line chart over steps, for every arm from {start_name(start)}, at the end: {ends}.'
        )
        with chart.panel(title, described) as figure:
            ax = figure.subplots()
            for series in legend:
                _draw_arm(ax, points, series)
            if title.startswith('Accuracy'):
                percent_axis(ax, top=min(104, 1.12 * max(y for *_, y in points) + 1))
            else:
                ax.set_ylim(bottom=0)
            ax.set_ylabel(unit)
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            ax.set_xlabel('step')
    return chart


def points_of(points, arm: str) -> list[tuple[int, float]]:
    """Returns the mean over seeds of an arm: (step, value), for steps that all seeds have."""
    seeds = {seed for name, seed, *_ in points if name == arm}
    by_step: dict[int, list[float]] = {}
    for name, _, step, value in points:
        if name == arm:
            by_step.setdefault(step, []).append(value)
    return [(s, float(np.mean(v))) for s, v in sorted(by_step.items()) if len(v) == len(seeds)]


def _points(runs, field: str, index: int, scale: float = 1.0):
    """Returns (arm, seed, step, value) of what runs logged; without what has no number."""
    return [
        (run['arm'], run['seed'], record[0], scale * record[index])
        for run in runs
        for record in run[field]
        if len(record) > index and record[index] is not None
    ]


def _draw_arm(ax, points, series: Series) -> None:
    mean = points_of(points, series.key)
    if not any(value for _, value in mean):  # what an arm does not align has no loss
        return
    for seed in sorted({seed for arm, seed, *_ in points if arm == series.key}):
        line = [(x, y) for arm, of, x, y in points if arm == series.key and of == seed]
        drawn = ax.plot(*zip(*line, strict=True), color=series.ink, linewidth=0.7, alpha=0.4)
        mark(drawn[0], series=series.slug)
    every = max(len(mean) // 12, 1)
    (line,) = ax.plot(*zip(*mean, strict=True), **series.line, markevery=every)
    tips = [f'{series.title}, step {x:,}: {number(y)}' for x, y in mean[::every]]
    mark(line, series=series.slug, tips=tips)
