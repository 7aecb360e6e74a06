"""How selective circuits are, beside how much they keep."""

from collections.abc import Mapping
from typing import Any

from cdjax.circuits.methods import LEARNED
from cdjax.report.chart import Chart, Series, reference, true_minus
from cdjax.report.svg import mark
from cdjax.wording import exact_percent, number, percent, points, points_interval

_PARTS = (
    Series('whole', 'without the whole circuit', 'blue', 'o', bold=True),
    Series('specific', 'without its specific part', 'vermillion', 's', 'dashed'),
)
_MEASURES = (('accuracy', 'only'), ('probability', 'only_probability'))


def selectivity_front(study: Mapping[str, Any]) -> Chart | None:
    """Draws selectivity against what the circuits keep, a point for each size; None for one class.

    Without a result for several sizes there is no front.
    """
    by_size = study['selectivity'].get('by_size') or []
    kept = dict(zip(study['sizes'], study['curves'][LEARNED.key], strict=True))
    by_size = [at for at in by_size if at['size'] in kept]
    if not by_size:
        return None
    chart = Chart(
        'front',
        'How selective circuits are (on problems of other classes minus on those of their own, in '
        'points, with the circuit or its specific part taken out) against what they keep alone, a '
        'point for each size; bars: 95 % intervals. The specific part is what lies outside the '
        'core, the neurons of more than half of the circuits. Up and to the right is better.',
        ['neurons', 'measure', 'kept by the circuit', 'taken out', 'selectivity', 'low', 'high'],
        [
            [at['size'], measure, kept[at['size']][field], part.key, at[part.key][measure],
             *(at[part.key][f'{measure}_interval'] or (None, None))]
            for at in by_size
            for measure, field in _MEASURES
            for part in _PARTS
        ],
        _PARTS,
    )  # fmt: skip
    for measure, field in _MEASURES:
        told = f'{percent(kept[by_size[-1]["size"]][field])} kept'
        described = (
            f'Selectivity over what circuits keep, {len(by_size)} sizes; of the largest, {told} '
            f'and a selectivity of {number(by_size[-1]["whole"][measure])}.'
        )
        with chart.panel(f'In {measure}', described) as figure:
            _front(figure.subplots(), study, by_size, kept, measure, field)
    return chart


def _front(ax, study, by_size, kept, measure, field) -> None:
    for part in _PARTS:
        drawn = [
            (at['size'], 100 * kept[at['size']][field], at[part.key])
            for at in by_size
            if at[part.key][measure] is not None
        ]
        if not drawn:
            continue
        y = [100 * found[measure] for *_, found in drawn]
        intervals = [found[f'{measure}_interval'] or (found[measure],) * 2 for *_, found in drawn]
        low, high = ([100 * interval[i] for interval in intervals] for i in (0, 1))
        bars = ax.vlines([x for _, x, _ in drawn], low, high, color=part.ink, alpha=0.4)
        mark(bars, series=part.slug)
        (line,) = ax.plot([x for _, x, _ in drawn], y, **part.line)
        tips = [
            f'{exact_percent(size / study["neurons"])} of the neurons keep {x:.1f} %; {part.title} '
            f'{points(found[measure])} points {points_interval(interval)}'
            for (size, x, found), interval in zip(drawn, intervals, strict=True)
        ]
        mark(line, series=part.slug, tips=tips)
    reference(ax, y=0)
    ax.set_xlim(-3, 103)
    ax.set_xlabel(f'kept with only the circuit, % ({measure})')
    ax.set_ylabel('selectivity, points')
    true_minus(ax.yaxis)
