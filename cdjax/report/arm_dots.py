"""The arms of one start: every student, and what an arm adds to KD."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cdjax.colours import PALETTE
from cdjax.distillation.arms import KD
from cdjax.report.chart import Chart, reference, true_minus
from cdjax.report.comparisons import arm_difference
from cdjax.report.names import start_name
from cdjax.report.svg import PANEL, mark
from cdjax.report.training_curves import arm_series
from cdjax.wording import percent, points, points_interval

_STEPS = [1, 2, 2.5, 5, 10]


def arm_dots(start: str, found: Mapping[str, Any]) -> Chart:
    """Draws the accuracy of each arm by seed, and its gain over KD with its interval."""
    table, runs, legend = found['table'], found['runs'], arm_series(found)
    gains = {row['arm']: arm_difference(runs, row['arm'], KD.key) for row in table}
    gains = {arm: gap for arm, gap in gains.items() if gap is not None and arm != KD.key}
    chart = Chart(
        f'dots-{start}',
        'Accuracy on unseen problems of every student: a thin line joins the students of one seed, '
        'a bar is the mean. Beside it the mean difference from KD, paired by seed, with Student’s '
        '95 % interval where there are at least two seeds.',
        ['arm', 'seed', 'accuracy on unseen problems', 'on the share'],
        [[run['arm'], run['seed'], run['unseen'], run['share']] for run in runs],
        legend,
    )
    size = (PANEL[0], 0.4 * len(table) + 1.0)
    means = '; '.join(
        f'{series.title} {percent(row["mean"])}' for series, row in zip(legend, table, strict=True)
    )
    described = f'Dot chart of the accuracy of every student from {start_name(start)}: {means}.'
    with chart.panel('Each seed, and mean', described, size) as figure:
        _students(figure.subplots(), found, legend)
    if gains:
        told = '; '.join(
            f'{s.title} {points(gains[s.key].value)} {points_interval(gains[s.key].interval)}'
            for s in legend
            if s.key in gains
        )
        described = f'In points, from {start_name(start)}, with 95 % intervals: {told}.'
        with chart.panel('Gain over KD', described, size) as figure:
            _gains(figure.subplots(), gains, legend)
    return chart


def _students(ax, found, legend) -> None:
    of = {(run['arm'], run['seed']): 100 * run['unseen'] for run in found['runs']}
    rows = _rows(ax, legend)
    for seed in sorted({run['seed'] for run in found['runs']}):
        line = [(of[arm, seed], y) for arm, y in rows.items() if (arm, seed) in of]
        ax.plot(*zip(*line, strict=True), color=PALETTE['rule'], linewidth=1.0, zorder=1)
    for series, row in zip(legend, found['table'], strict=True):
        y, mean = rows[series.key], 100 * row['mean']
        seeds, x = row['seeds'], [100 * a for a in row['accuracies']]
        (dots,) = ax.plot(
            x, [y] * len(x), series.marker, color=series.ink, markersize=5, alpha=0.75, mew=0
        )
        tips = [f'{series.title}, seed {s}: {v:.1f} %' for s, v in zip(seeds, x, strict=True)]
        mark(dots, series=series.slug, tips=tips)
        (bar,) = ax.plot([mean, mean], [y - 0.28, y + 0.28], color=series.ink, linewidth=2.4)
        mark(bar, series=series.slug)
    if found['first'] is not None:
        before = 100 * float(np.mean(found['first']['unseen']))
        reference(ax, x=before)
        where = {'xycoords': ('data', 'axes fraction'), 'textcoords': 'offset points'}
        style = {'color': PALETTE['muted'], 'fontsize': 8}
        ax.annotate('before', (before, 0), xytext=(3, 3), **where, **style)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} %'))
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    ax.set_xlabel('unseen problems right')


def _gains(ax, gains, legend) -> None:
    rows = _rows(ax, legend)
    for series in legend:
        gap = gains.get(series.key)
        if gap is None:
            continue
        y = rows[series.key]
        if gap.interval is not None:
            low, high = (100 * x for x in gap.interval)
            (bar,) = ax.plot([low, high], [y, y], color=series.ink, linewidth=2.0, alpha=0.55)
            mark(bar, series=series.slug)
        (dot,) = ax.plot(
            [100 * gap.value], [y], series.marker, color=series.ink, markersize=6, mew=0
        )
        tip = f'{series.title}: {points(gap.value)} {points_interval(gap.interval)}'
        mark(dot, series=series.slug, tips=[tip])
    ax.axvline(0, color=PALETTE['muted'], linewidth=0.9)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    true_minus(ax.xaxis)
    ax.set_xlabel('percentage points')


def _rows(ax, legend) -> dict[str, int]:
    """Names the rows of an axis for the arms; returns the place of each."""
    rows = {series.key: y for y, series in enumerate(legend)}
    ax.set_yticks(list(rows.values()), [series.title for series in legend])
    ax.tick_params(axis='y', labelcolor=PALETTE['ink'])
    ax.set_ylim(len(legend) - 0.5, -0.5)
    ax.grid(axis='y', visible=False)
    return rows
