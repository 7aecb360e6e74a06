"""Accuracy against the number of training problems, drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from cdjax.colours import PALETTE
from cdjax.report.arm_figures import saved_text
from cdjax.report.chart import Chart, percent_axis
from cdjax.report.names import start_name
from cdjax.report.svg import mark
from cdjax.report.training_curves import arm_series
from cdjax.wording import percent


def problem_curves(start: str, found: Mapping[str, Any]) -> Chart | None:
    """Draws accuracy over training problems by arm: seeds, and means; None where there is one size.

    Args:
        start: where the students started from.
        found: the results of a start.
    """
    told = found.get('by_problems')
    if not told:
        return None
    sizes, legend = told['problems'], arm_series(found)
    rows = {row['arm']: row for row in told['arms']}
    most = [part for part in told.get('knowable', ()) if part is not None]
    chart = Chart(
        f'problems-{start}',
        f'Students from {start_name(start)} by the number of problems that they were distilled '
        'with, equal steps: thin lines are seeds, thick ones their means. '
        + ' '.join(f'{saved_text(one)}.' for one in told['saves'])
        + (' Dots are what can be known at all: the others can only be guessed.' if most else ''),
        ['arm', *(f'{n:,}' for n in sizes)],
        [[arm, *row['means']] for arm, row in rows.items()],
        legend,
    )
    ends = '; '.join(f'{s.title} {percent(rows[s.key]["means"][-1])}' for s in legend)
    described = (
        f'Line chart over {sizes[0]:,} to {sizes[-1]:,} training problems, from '
        f'{start_name(start)}, at last: {ends}.'
    )
    with chart.panel('Accuracy on unseen problems', described) as figure:
        ax = figure.subplots()
        for series in legend:
            row = rows[series.key]
            for seed in np.transpose(row['accuracies']):
                drawn = ax.plot(sizes, 100 * seed, color=series.ink, linewidth=0.7, alpha=0.4)
                mark(drawn[0], series=series.slug)
            mean = [100 * value for value in row['means']]
            (line,) = ax.plot(sizes, mean, **series.line)
            tips = [
                f'{series.title}, {n:,} problems: {value:.1f} %'
                for n, value in zip(sizes, mean, strict=True)
            ]
            mark(line, series=series.slug, tips=tips)
        if most:
            ax.plot(sizes, [100 * part for part in most], 'o', color=PALETTE['muted'], markersize=3)
        ax.set_xscale('log')
        ax.xaxis.set_major_locator(FixedLocator(sizes))
        ax.xaxis.set_major_formatter(FixedFormatter([f'{n:,}' for n in sizes]))
        ax.xaxis.set_minor_locator(NullLocator())
        top = max(value for row in rows.values() for one in row['accuracies'] for value in one)
        percent_axis(ax, top=min(104, 112 * top + 1))
        ax.set_ylabel('% right')
        ax.set_xlabel('training problems')
    return chart
