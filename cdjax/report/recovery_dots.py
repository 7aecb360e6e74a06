"""How much of planted circuits each method finds, drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cdjax.circuits.methods import LEARNED
from cdjax.colours import PALETTE
from cdjax.report.chart import Chart, Series, marker
from cdjax.report.svg import PANEL, mark
from cdjax.wording import number

# What is told of a method in `results/circuits.json`, and its name in the figure.
FIGURES = {
    'auroc_living': 'AUROC, living neurons',
    'auroc': 'AUROC, all neurons',
    'precision': 'precision',
    'recall': 'recall',
    'shared': 'recall, shared part',
    'specific': 'recall, own part',
    'kept': 'probability kept',
}
# In its table and CSV alone.
_BESIDE = {
    'other_specific': 'other classes’ parts',
    'decoys': 'decoys',
    'nmi': 'NMI of the classes',
    'ari': 'ARI of the classes',
}
_SPREAD = 0.62  # of the rows of marks of one figure, so that equal values do not hide each other


def recovery_dots(
    key: str, truth: Mapping[str, Any] | None, methods: Mapping[str, Any]
) -> Chart | None:
    """Draws what each method finds of planted circuits; None of a teacher without any.

    Args:
        key: of the chart.
        truth: what `cdjax.studies.ground_truth.study_recovery` returns.
        methods: what is said of each method, by key.
    """
    if not truth:
        return None
    found = truth['methods']
    legend = [
        Series(
            method,
            methods[method]['title'],
            methods[method]['colour'],
            marker(i),
            bold=method == LEARNED.key,
        )
        for i, method in enumerate(found)
    ]
    chart = Chart(
        key,
        f'What each method finds of the circuits of {truth["classes"]:,} planted classes, means '
        'over classes. AUROC: of a method’s ranking of the neurons that a class needs before all '
        f'others. The rest is of circuits of the causal size, {truth["size"]:,} neurons: the part '
        'that the class needs (precision), the part of what it needs that they have (recall), and '
        'the probability of the answer with nothing else; the planted circuits themselves keep '
        f'{number(truth["kept"])}.',
        ['method', *FIGURES.values(), *_BESIDE.values()],
        [
            [series.title, *(found[series.key][name] for name in (*FIGURES, *_BESIDE))]
            for series in legend
        ],
        legend,
    )
    told = '; '.join(
        f'{series.title} {number(found[series.key]["precision"])}' for series in legend
    )
    described = f'Dot chart of what methods find of planted circuits. Precision: {told}.'
    # A row of marks for each method within each of the figures.
    size = (PANEL[0], 0.065 * len(legend) * len(FIGURES) + 0.8)
    with chart.panel('', described, size) as figure:
        _draw(figure.subplots(), found, legend)
    return chart


def _draw(ax, found: Mapping[str, Any], legend: list[Series]) -> None:
    offsets = _SPREAD * (np.arange(len(legend)) - (len(legend) - 1) / 2) / len(legend)
    for series, offset in zip(legend, offsets, strict=True):
        values = [(y, found[series.key][name]) for y, name in enumerate(FIGURES)]
        values = [(y, value) for y, value in values if value is not None]
        (dots,) = ax.plot(
            [value for _, value in values],
            [y + offset for y, _ in values],
            series.marker,
            color=series.ink,
            markersize=6 if series.bold else 4.5,
            mew=0,
        )
        names = list(FIGURES.values())
        tips = [f'{series.title}, {names[y]}: {number(v)}' for y, v in values]
        mark(dots, series=series.slug, tips=tips)
    ax.set_yticks(range(len(FIGURES)), list(FIGURES.values()))
    ax.tick_params(axis='y', labelcolor=PALETTE['ink'])
    ax.set_ylim(len(FIGURES) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    for y in range(1, len(FIGURES)):
        ax.axhline(y - 0.5, color=PALETTE['rule'], linewidth=0.6)
    ax.grid(axis='y', visible=False)
