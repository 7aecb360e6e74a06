"""Curves and dots of a report, in Okabe and Ito's colours and named where they end.

Each function returns an SVG element; `svg` makes it part of the page.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from cdjax.circuits.methods import LEARNED
from cdjax.distillation.arms import CIRCUITS, KD
from cdjax.report.comparisons import arm_difference, at_circuit_size
from cdjax.report.student_findings import start_name
from cdjax.report.svg import PALETTE, WIDTH, inline_svg, style
from cdjax.studies.study import Drawing
from cdjax.wording import MINUS, exact_percent, number, percent

TERMS = (
    'faithfulness',
    'kl',
    'completeness',
    'selectivity',
    'usage',
    'similarity',
    'sparsity',
    'density',
    'prior_kl',
    'overlap',
)
_STEPS = [1, 2, 2.5, 5, 10]


def draw(name: str, drawing: Drawing) -> str:
    """Draws the figure of a study; `name` is its own on the page."""
    with style(name):
        figure = Figure(figsize=(WIDTH, drawing.height), layout='constrained')
        drawing.draw(figure)
        return inline_svg(figure, drawing.description)


def circuit_curves(study: Mapping[str, Any]) -> str:
    """Draws accuracy with only the circuit, and without it, over its size, for every method."""
    with style('circuits'):
        # High enough to name every curve at its end.
        height = max(3.7, 0.26 * len(study['curves']) + 1)
        figure = Figure(figsize=(WIDTH, height), layout='constrained')
        panels = figure.subplots(1, 2, sharey=True)
        shares = study['shares']
        for ax, field, title in zip(
            panels, ('only', 'without'), ('With only the circuit', 'Without it'), strict=True
        ):
            ends = []
            for key, curve in study['curves'].items():
                method = study['methods'][key]
                colour = PALETTE.get(method['colour'], method['colour'])
                values = [100 * point[field] for point in curve]
                low, high = (
                    [100 * point[f'{field}_interval'][i] for point in curve] for i in (0, 1)
                )
                ours = key == LEARNED.key
                ax.fill_between(shares, low, high, color=colour, alpha=0.14, linewidth=0)
                ax.plot(
                    shares,
                    values,
                    color=colour,
                    linewidth=2.2 if ours else 1.2,
                    linestyle=method['line'],
                    marker='o',
                    markersize=3.6 if ours else 2.2,
                    zorder=4 if ours else 3,
                )
                ends.append((values[-1], sum(values), method['title'], colour, ours))
            _share_axis(ax, shares)
            _percent_axis(ax)
            ax.axhline(
                100 * study['accuracy'], color=PALETTE['muted'], linewidth=0.8, dashes=(1, 2)
            )
            at = shares[at_circuit_size(study)]
            ax.axvline(at, color=PALETTE['muted'], linewidth=0.8, dashes=(1, 2))
            ax.set_title(title)
            ax.set_xlabel('neurons in the circuit, % of all (log scale)')
            _label_ends(ax, shares[-1], ends)
        panels[0].set_ylabel('unseen problems answered right')
        sizes = f'{exact_percent(min(shares))} to {exact_percent(max(shares))}'
        titles = ', '.join(study['methods'][key]['title'] for key in study['curves'])
        return inline_svg(
            figure,
            f'Two line charts over circuit sizes from {sizes} of the neurons: accuracy with only '
            f'the circuit and accuracy without it, for {titles}. The numbers at the size of the '
            'circuits are in the table below.',
        )


def discovery_curves(history: Sequence[Mapping[str, float]]) -> str | None:
    """Draws the terms of a discovery's objective over its steps; None without any."""
    terms = [name for name in TERMS if any(p.get(name) is not None for p in history)]
    if not terms:
        return None
    with style('discovery'):
        columns = len(terms) if len(terms) <= 4 else math.ceil(len(terms) / 2)
        rows = math.ceil(len(terms) / columns)
        figure = Figure(figsize=(WIDTH, 1.55 * rows + 0.25), layout='constrained')
        axes = np.ravel(figure.subplots(rows, columns, sharex=True, squeeze=False))
        for i, (ax, name) in enumerate(zip(axes, terms, strict=False)):
            drawn = [(p['step'], p[name]) for p in history if p.get(name) is not None]
            steps, values = zip(*drawn, strict=True)
            marker = 'o' if len(steps) < 20 else ''
            ax.plot(
                steps, values, color=PALETTE['blue'], linewidth=1.4, marker=marker, markersize=2.6
            )
            ax.set_title(name.replace('_', ' '))
            ax.set_xlim(0, steps[-1])
            ax.tick_params(labelbottom=i + columns >= len(terms))
            ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            ax.yaxis.set_major_locator(MaxNLocator(4))
            _true_minus(ax.yaxis)
        for ax in axes[len(terms) :]:
            ax.set_axis_off()
        figure.supxlabel('step', fontsize=8.5, color=PALETTE['muted'])
        last = ', '.join(
            f'{name} {number(next(p[name] for p in reversed(history) if p.get(name) is not None))}'
            for name in terms
        )
        return inline_svg(figure, f'Line charts of the terms of the objective. At the end: {last}.')


def arm_curves(starts: Mapping[str, Any]) -> str:
    """Draws accuracy on unseen forms over steps: thin lines for seeds, thick ones for means."""
    with style('arms'):
        figure = Figure(figsize=(WIDTH, 3.5), layout='constrained')
        axes = np.ravel(figure.subplots(1, len(starts), sharey=True, squeeze=False))
        most = max(y for s in starts.values() for run in s['runs'] for _, y in run['curve'])
        for ax, (start, found) in zip(axes, starts.items(), strict=True):
            ends, last = [], 0
            for row in found['table']:
                arm = row['arm']
                colour = PALETTE.get(row['colour'], row['colour'])
                curves = [np.array(r['curve']) for r in found['runs'] if r['arm'] == arm]
                for curve in curves:
                    ax.plot(curve[:, 0], 100 * curve[:, 1], color=colour, linewidth=0.7, alpha=0.45)
                steps, mean = curves[0][:, 0], 100 * np.mean([c[:, 1] for c in curves], axis=0)
                ax.plot(steps, mean, color=colour, linewidth=2.0, marker='o', markersize=2.6)
                ends.append((mean[-1], mean.sum(), row['phrase'], colour, arm == CIRCUITS.key))
                last = max(last, steps[-1])
            _percent_axis(ax, top=min(104, 112 * most + 1))
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            ax.set_title(f'From {start_name(start)}')
            ax.set_xlabel('step')
            _label_ends(ax, last, ends)
        axes[0].set_ylabel('unseen problems answered right')
        return inline_svg(
            figure,
            'Line charts of the accuracy on unseen problems over the steps of the distillation, '
            'for every arm and seed.',
        )


def arm_dots(start: str, found: Mapping[str, Any]) -> str:
    """Draws the accuracy of each arm by seed, and its gain over KD with its interval."""
    with style(f'dots-{start}'):
        table, runs = found['table'], found['runs']
        gains = {row['arm']: arm_difference(runs, row['arm'], KD.key) for row in table}
        gains = {arm: gap for arm, gap in gains.items() if gap is not None and arm != KD.key}
        figure = Figure(figsize=(WIDTH, 0.42 * len(table) + 1.1), layout='constrained')
        if gains:
            left, right = figure.subplots(
                1, 2, sharey=True, gridspec_kw={'width_ratios': [1.25, 1]}
            )
        else:
            left, right = figure.subplots(1, 1), None
        of = {(run['arm'], run['seed']): 100 * run['unseen'] for run in runs}
        rows = {row['arm']: y for y, row in enumerate(table)}
        for seed in sorted({run['seed'] for run in runs}):
            line = [(of[arm, seed], y) for arm, y in rows.items() if (arm, seed) in of]
            left.plot(*zip(*line, strict=True), color=PALETTE['rule'], linewidth=1.0, zorder=1)
        colours = {row['arm']: PALETTE.get(row['colour'], row['colour']) for row in table}
        for row in table:
            y, colour = rows[row['arm']], colours[row['arm']]
            left.plot(
                [100 * a for a in row['accuracies']],
                [y] * len(row['accuracies']),
                'o',
                color=colour,
                markersize=5,
                alpha=0.75,
                markeredgewidth=0,
                zorder=3,
            )
            mean = 100 * row['mean']
            left.plot([mean, mean], [y - 0.28, y + 0.28], color=colour, linewidth=2.4, zorder=4)
        if found['first'] is not None:
            before = 100 * float(np.mean(found['first']['unseen']))
            left.axvline(before, color=PALETTE['muted'], linewidth=0.8, dashes=(1, 2))
            left.annotate(
                'before',
                (before, 0),
                xycoords=('data', 'axes fraction'),
                xytext=(3, 3),
                textcoords='offset points',
                color=PALETTE['muted'],
                fontsize=7.5,
            )
        left.set_yticks(list(rows.values()), [row['phrase'] for row in table])
        left.tick_params(axis='y', labelcolor=PALETTE['ink'])
        left.set_ylim(len(table) - 0.5, -0.5)
        left.grid(axis='y', visible=False)
        left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} %'))
        left.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
        left.set_title('Unseen problems right: each seed, and mean')
        if right is not None:
            _gains(right, gains, rows, colours)
        return inline_svg(
            figure,
            f'Dot chart of the accuracy of each arm and seed, starting from {start_name(start)}. '
            + '; '.join(f'{row["phrase"]} {percent(row["mean"])}' for row in table),
        )


def _gains(ax: Axes, gains, rows, colours) -> None:
    for arm, gap in gains.items():
        colour = colours[arm]
        if gap.interval is not None:
            low, high = (100 * x for x in gap.interval)
            ax.plot([low, high], [rows[arm]] * 2, color=colour, linewidth=2.0, alpha=0.55)
        ax.plot(100 * gap.value, rows[arm], 'o', color=colour, markersize=6, markeredgewidth=0)
    ax.axvline(0, color=PALETTE['muted'], linewidth=0.9)
    ax.grid(axis='y', visible=False)
    ax.tick_params(axis='y', labelleft=False)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    _true_minus(ax.xaxis)
    interval = any(gap.interval is not None for gap in gains.values())
    ax.set_title('Gain over KD, points' + (', 95 % interval' if interval else ''))


def _label_ends(ax: Axes, x: float, ends: Sequence[tuple]) -> None:
    """Names lines at their right ends, moved apart where they would lie on each other.

    Each end is (height, what orders equal heights, name, colour, whether it is bold).
    """
    low, high = ax.get_ylim()
    gap = 0.068 * (high - low)
    order = sorted(ends)
    places = _spread([end[0] for end in order], gap, low, high)
    for (y, _, text, colour, strong), place in zip(order, places, strict=True):
        ax.annotate(
            text,
            (x, y),
            xytext=(1.07, (place - low) / (high - low)),
            textcoords='axes fraction',
            va='center',
            color=colour,
            fontsize=8,
            fontweight='bold' if strong else 'normal',
            arrowprops={
                'arrowstyle': '-',
                'relpos': (0, 0.5),
                'color': colour,
                'linewidth': 0.5,
                'alpha': 0.6,
                'shrinkA': 1,
                'shrinkB': 3,
            },
        )


def _spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns places at least `gap` apart, as near to the sorted values as they fit in."""
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + gap if places else low))
    ceiling = high
    for i in reversed(range(len(places))):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return places


def _share_axis(ax: Axes, shares: Sequence[float]) -> None:
    ax.set_xscale('log')
    ax.set_xlim(min(shares) * 0.9, max(shares) * 1.1)
    ax.set_xticks(shares, [f'{100 * share:.2g}' for share in shares], fontsize=8)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis='x', visible=False)


def _percent_axis(ax: Axes, top: float = 104) -> None:
    ax.set_ylim(0, top)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} %'))
    ax.grid(axis='x', visible=False)


def _true_minus(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'.replace('-', MINUS)))
