"""A card for each neuron that stands out: where it is active, and which answers it raises."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from cdjax.colours import PALETTE
from cdjax.report.chart import Chart, Series, true_minus
from cdjax.report.svg import PANEL, mark
from cdjax.wording import number

# Purple below zero and orange above it, which the colour-blind tell apart.
_MAP = matplotlib.colormaps['PuOr_r'].resampled(64)
_MAX_TIPS = 120
_ACTIVATION = Series('activation', 'activation by answer', 'blue')
_EFFECT = Series('effect', 'its effect on the logit of the answer', 'vermillion', 's', 'dashed')
# Left, bottom, width and height of the plots of a card, as parts of it, by the number of its maps.
_PLACES = {
    0: [(0.13, 0.2, 0.84, 0.68)],
    1: [(0.11, 0.2, 0.34, 0.62), (0.67, 0.2, 0.32, 0.62)],
    3: [(0.1, 0.6, 0.33, 0.33), (0.66, 0.6, 0.33, 0.33), (0.1, 0.11, 0.33, 0.33),
        (0.66, 0.11, 0.33, 0.33)],
}  # fmt: skip
_HEIGHTS = {0: 2.0, 1: 2.2, 3: 4.1}


@dataclasses.dataclass(frozen=True)
class Card:
    """A neuron of the page.

    Attributes:
        title: its place.
        chosen_for: the class that it stands out in, None for one that all share.
        facts: a row for each class: class, score, mean activation, logit difference lost.
        circuits: the classes whose circuit holds it.
        chart: its maps and curves.
    """

    title: str
    chosen_for: int | None
    facts: list[tuple[int, float, float | None, float | None]]
    circuits: list[int]
    chart: Chart


def neuron_cards(neurons: Mapping[str, Any]) -> list[Card]:
    """Returns a card for each neuron of `results/neurons.json`."""
    return [_card(neurons, neuron) for neuron in neurons['neurons']]


def _card(neurons: Mapping[str, Any], neuron: Mapping[str, Any]) -> Card:
    title = f'Layer {neuron["layer"]}, neuron {neuron["neuron"]}'
    answers, maps = neurons['answers'], neuron['maps']
    rows = [
        ['by answer', name, mean, effect]
        for name, mean, effect in zip(
            answers, neuron['by_answer'], neuron['effect_on_answer'], strict=True
        )
    ]
    for pair, grid in maps.items():
        first, second = (neurons['operands'][int(i) - 1] for i in pair.split('-'))
        rows.append([f'operands {pair}', '', *second])
        rows += [[f'operands {pair}', a, *line] for a, line in zip(first, grid, strict=True)]
    over_pairs = ' over pairs of operands, and' if maps else ''
    chart = Chart(
        f'neuron-{neuron["layer"]}-{neuron["neuron"]}',
        f'Mean activation{over_pairs} by answer, beside its effect on the logit of the answer.',
        ['part', 'at', 'activation', 'effect'],
        rows,
        [_ACTIVATION, _EFFECT],
    )
    peak = answers[int(np.nanargmax(np.array(neuron['by_answer'], float)))]
    described = (
        f'{title}: mean activation over pairs of operands, and by answer, where it is largest at '
        f'{peak}.'
    )
    size = (PANEL[0], _HEIGHTS[len(maps)])
    with chart.panel('', described, size, layout=None) as figure:
        _draw(figure, neurons, neuron)
    columns = ('scores', 'mean', 'loss_without')
    facts = list(zip(range(len(neuron['scores'])), *(neuron[c] for c in columns), strict=True))
    return Card(title, neuron['class'], facts, neuron['circuits'], chart)


def _draw(figure, neurons, neuron) -> None:
    maps = {pair: np.array(grid, float) for pair, grid in neuron['maps'].items()}
    largest = max((np.nanmax(np.abs(grid)) for grid in maps.values()), default=1.0) or 1.0
    *places, last = [figure.add_axes(place) for place in _PLACES[len(maps)]]
    for ax, (pair, grid) in zip(places, maps.items(), strict=True):
        i, j = (int(n) - 1 for n in pair.split('-'))
        rows, columns = neurons['operands'][i], neurons['operands'][j]
        image = ax.imshow(
            grid, cmap=_MAP, vmin=-largest, vmax=largest, interpolation='none', origin='lower',
            aspect='auto',
        )  # fmt: skip
        values = [[None if np.isnan(v) else v for v in line] for line in grid[::-1].tolist()]
        mark(image, cells={'rows': rows[::-1], 'columns': columns, 'values': values})
        ax.grid(visible=False)
        for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
            at = np.linspace(0, len(names) - 1, min(4, len(names))).round().astype(int)
            axis.set_ticks(at, [names[k] for k in at], fontsize=8)
        ax.set_xlabel(f'operand {j + 1}', fontsize=8, labelpad=1)
        ax.set_ylabel(f'operand {i + 1}', fontsize=8, labelpad=1)
    if places:
        beside = places[0].get_position()
        bar = figure.add_axes((beside.x1 + 0.012, beside.y0, 0.012, beside.height))
        figure.colorbar(image, cax=bar)
        bar.set_yticks([-largest, 0, largest], [number(v) for v in (-largest, 0, largest)])
        bar.tick_params(labelsize=7, pad=1)
        bar.set_title('mean activation', fontsize=7, pad=6)
    _curves(last, neurons['answers'], neuron)


def _curves(ax, answers, neuron) -> None:
    """Draws activation and effect by answer, each as a part of its largest."""
    x = np.arange(len(answers))
    for series, field in ((_ACTIVATION, 'by_answer'), (_EFFECT, 'effect_on_answer')):
        values = np.array(neuron[field], float)
        largest = np.nanmax(np.abs(values)) or 1.0
        few = len(answers) <= _MAX_TIPS
        (line,) = ax.plot(
            x, values / largest, color=series.ink, linewidth=1.1, markersize=1.6,
            marker=series.marker if few else '', linestyle=series.stroke,
        )  # fmt: skip
        tips = [
            f'answer {name}: {series.title} {number(v, 3)}'
            for name, v in zip(answers, values, strict=True)
            if np.isfinite(v)
        ]
        mark(line, series=series.slug, tips=tips if few else ())
    ax.axhline(0, color=PALETTE['muted'], linewidth=0.6)
    ax.set_ylim(-1.08, 1.08)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    true_minus(ax.yaxis)
    at = np.linspace(0, len(answers) - 1, min(5, len(answers))).round().astype(int)
    ax.set_xticks(at, [answers[k] for k in at], fontsize=8)
    ax.tick_params(axis='y', labelsize=8)
    ax.set_xlabel('answer', fontsize=8, labelpad=1)
    ax.set_ylabel('part of its largest', fontsize=8, labelpad=1)
    ax.grid(axis='x', visible=False)
