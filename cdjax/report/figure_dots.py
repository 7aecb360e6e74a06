"""Figures of the students of each arm beside their accuracy, as differences from KD, drawn."""

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import MaxNLocator

from cdjax.distillation.arms import KD
from cdjax.report.arm_figures import gain_text
from cdjax.report.chart import Chart, true_minus
from cdjax.report.names import start_name
from cdjax.report.svg import PALETTE, PANEL, mark
from cdjax.report.training_curves import arm_series
from cdjax.studies.costs import COSTS
from cdjax.studies.mechanism import FAITHFUL, MEASURES

Rows = Mapping[str, Mapping[str, Any]]


def mechanism_dots(start: str, found: Mapping[str, Any]) -> Chart | None:
    """Draws how far each arm's students differ from those of KD, None where nothing was measured.

    Args:
        start: where the students started from.
        found: the results of a start, `mechanism` among them.
    """
    caption = (
        'What the students of each arm have of the teacher’s mechanism more than those of KD: mean '
        'difference, paired by seed, with Student’s 95 % interval where there are at least two '
        'seeds. Circuits are the smallest of a few sizes that keep '
        f'{FAITHFUL:.0%} of what the student can do; what is about them is compared where there '
        'are such of both students.'
    )
    names = {key: name for key, (name, _) in MEASURES.items()}
    return _dots(start, 'mechanism', caption, found, names)


def cost_dots(start: str, found: Mapping[str, Any]) -> Chart | None:
    """Draws how far each arm's students differ from those of KD in what is told beside accuracy.

    Args:
        start: where the students started from.
        found: the results of a start, `costs` among them.
    """
    caption = (
        f'What is told of students from {start_name(start)} beside their accuracy: mean difference '
        'from KD, paired by seed, with Student’s 95 % interval where there are at least two seeds.'
    )
    return _dots(start, 'costs', caption, found, COSTS)


def _dots(
    start: str, field: str, caption: str, found: Mapping[str, Any], names: Mapping[str, str]
) -> Chart | None:
    rows: Rows = {row['arm']: row for row in found.get(field) or ()}
    legend = [series for series in arm_series(found) if series.key != KD.key]
    if not rows or not legend:
        return None
    names = {key: text for key, text in names.items() if key in next(iter(rows.values()))}
    chart = Chart(
        f'{field}-{start}',
        caption,
        ['arm', *names.values()],
        [[arm, *(row[key]['mean'] for key in names)] for arm, row in rows.items()],
        legend,
    )
    size = (PANEL[0], 0.3 * len(legend) + 1.2)
    for key, text in names.items():
        shown = {series: rows[series.key][key] for series in legend if series.key in rows}
        gains = '; '.join(f'{series.title} {gain_text(arm)}' for series, arm in shown.items())
        title = text[0].upper() + text[1:]
        described = f'{title} over KD, students from {start_name(start)}: {gains}.'
        with chart.panel(title, described, size) as figure:
            _draw(figure.subplots(), shown)
    return chart


def _draw(ax, gains) -> None:
    for y, (series, told) in enumerate(gains.items()):
        if told.get('gain') is None:
            continue
        if told['gain_interval'] is not None:
            line = ax.plot(told['gain_interval'], [y, y], color=series.ink, linewidth=2, alpha=0.55)
            mark(line[0], series=series.slug)
        dot = ax.plot([told['gain']], [y], series.marker, color=series.ink, markersize=6, mew=0)
        mark(dot[0], series=series.slug, tips=[f'{series.title}: {gain_text(told)}'])
    ax.set_yticks(range(len(gains)), [series.title for series in gains])
    ax.tick_params(axis='y', labelcolor=PALETTE['ink'])
    ax.set_ylim(len(gains) - 0.5, -0.5)
    ax.grid(axis='y', visible=False)
    ax.axvline(0, color=PALETTE['muted'], linewidth=0.9)
    # Names of arms leave little room: of small differences three ticks are as many as stand apart.
    ax.xaxis.set_major_locator(MaxNLocator(2))
    ax.set_xlabel('difference from KD')
    true_minus(ax.xaxis)
