"""Every method over the size of its circuits: what is kept, and what is lost without them."""

from collections.abc import Mapping
from typing import Any

from cdjax.circuits.methods import LEARNED
from cdjax.report.chart import (
    Chart,
    Series,
    marker,
    percent_axis,
    reference,
    share_axis,
    true_minus,
)
from cdjax.report.comparisons import at_circuit_size
from cdjax.report.svg import mark
from cdjax.wording import exact_percent, listing, number, percent, percent_interval

# Field of a point, title of its panel, unit of its axis ('%' for a part).
PANELS = (
    ('only', 'Accuracy with only the circuit', '%'),
    ('without', 'Accuracy without it', '%'),
    ('only_probability', 'Probability of the answer with only the circuit', '%'),
    ('without_probability', 'Probability of the answer without it', '%'),
    ('faithfulness', 'Faithfulness', ''),
    ('completeness', 'Completeness', ''),
)
_FAITHFULNESS = (-0.25, 1.35)  # what lies beyond is drawn at the edge


def method_series(study: Mapping[str, Any]) -> list[Series]:
    """Returns the legend of the methods of a study, in its order."""
    methods = [(key, study['methods'][key]) for key in study['curves']]
    return [
        Series(
            key,
            method['title'],
            method['colour'],
            marker(i),
            stroke=method['line'],
            bold=key == LEARNED.key,
        )
        for i, (key, method) in enumerate(methods)
    ]


def method_curves(study: Mapping[str, Any]) -> Chart:
    """Draws every method over the sizes of its circuits, a panel for each measure."""
    shares, curves, legend = study['shares'], study['curves'], method_series(study)
    points = [point for curve in curves.values() for point in curve]
    shown = [panel for panel in PANELS if any(p.get(panel[0]) is not None for p in points)]
    chart = Chart(
        'methods',
        'On unseen problems, over the size of the circuits: with all neurons outside the circuit '
        'of a problem’s class ablated, and with that circuit ablated. Bands: 95 % intervals. '
        'Dotted: the whole model, and the size that the circuits were cut to. Faithfulness '
        '(MIB-style): 1 as the whole model, 0 as without neurons; what lies beyond the '
        'panel is drawn at its edge. Completeness: 1 if without the '
        'circuit nothing is left.',
        [
            'method',
            'share of neurons',
            *(name for field, _, _ in shown for name in _columns(field)),
        ],
        [
            [study['methods'][key]['title'], share]
            + [value for field, _, _ in shown for value in _values(point, field)]
            for key, curve in curves.items()
            for share, point in zip(shares, curve, strict=True)
        ],
        legend,
    )
    titles = listing([series.title for series in legend])
    for field, title, unit in shown:
        described = (
            f'Line chart, {title.lower()} over circuit sizes from {exact_percent(min(shares))} to '
            f'{exact_percent(max(shares))} of the neurons, for {titles}.'
        )
        with chart.panel(title, described) as figure:
            _draw(figure.subplots(), study, legend, field, unit)
    return chart


def _draw(ax, study, legend, field, unit):
    shares, scale = study['shares'], 100 if unit else 1
    for series in legend:
        curve = study['curves'][series.key]
        drawn = [(s, p) for s, p in zip(shares, curve, strict=True) if p.get(field) is not None]
        if not drawn:
            continue
        x = [share for share, _ in drawn]
        intervals = [point.get(f'{field}_interval') for _, point in drawn]
        if all(intervals):
            low, high = ([scale * interval[i] for interval in intervals] for i in (0, 1))
            band = ax.fill_between(x, low, high, color=series.ink, alpha=0.14, linewidth=0)
            mark(band, series=series.slug)
        y = [scale * point[field] for _, point in drawn]
        if not unit:  # a mark beyond the page is not drawn, and its words would have no place
            y = [min(max(value, _FAITHFULNESS[0]), _FAITHFULNESS[1]) for value in y]
        (line,) = ax.plot(x, y, **series.line)
        tips = [_tip(series, s, p, field, unit) for s, p in drawn]
        mark(line, series=series.slug, tips=tips)
    share_axis(ax, shares)
    if unit:
        percent_axis(ax)
        ax.set_ylabel('of unseen problems' if 'probability' not in field else 'mean probability')
    else:
        ax.set_ylim(*_FAITHFULNESS)
        ax.grid(axis='x', visible=False)
        true_minus(ax.yaxis)
        kept = 'kept' if field == 'faithfulness' else 'lost'
        ax.set_ylabel(f'part of the logit difference {kept}')
    whole = {'faithfulness': 1.0, 'completeness': 1.0}
    for name in ('only', 'without'):
        whole |= {name: study['accuracy'], f'{name}_probability': study.get('probability')}
    if whole[field] is not None:
        reference(ax, y=scale * whole[field])
    reference(ax, x=shares[at_circuit_size(study)])


def _tip(series, share, point, field, unit):
    value, interval = point[field], point.get(f'{field}_interval')
    shown = percent(value, 1) if unit else number(value)
    beside = f' {percent_interval(interval)}' if unit and interval else ''
    return f'{series.title}, {exact_percent(share)}: {shown}{beside}'


def _columns(field):
    return [field, f'{field} low', f'{field} high']


def _values(point, field):
    return [point.get(field), *(point.get(f'{field}_interval') or (None, None))]
