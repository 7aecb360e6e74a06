"""What goes with a panel that leaves its page."""

from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from cdjax.report.chart import Chart, Series
from cdjax.report.svg import SVG, mark

SERIES = [
    Series('a', 'learned classes', 'blue', 'o', bold=True),
    Series('b', 'AtP & kin', 'ink', 's', 'dashed'),
    Series('c', 'not in this panel', 'ink', 'D'),
]


def file_of(series, title='', *, names=()):
    """The file of a panel where the first two of some series are drawn, as XML."""
    chart = Chart('k', 'caption', series=series)
    with chart.panel(title, 'described') as figure:
        ax = figure.subplots()
        for s in series[:2]:
            mark(ax.plot([0, 1], [0, 1], **s.line)[0], series=s.slug)
        ax.set_yticks(range(len(names)), names)
    return ElementTree.fromstring(unquote(chart.panels[0].file.partition(',')[2]))


def texts(root):
    return [element.text for element in root.iter(f'{{{SVG}}}text')]


def test_the_legend_names_what_is_drawn_with_its_stroke():
    root = file_of(SERIES)
    (legend,) = (element for element in root.iter(f'{{{SVG}}}g') if 'data-legend' in element.attrib)
    assert texts(legend) == ['learned classes', 'AtP & kin']
    lines = [p for p in legend.iter(f'{{{SVG}}}path') if 'stroke' in p.attrib]
    assert [(p.get('stroke'), p.get('stroke-dasharray')) for p in lines] == [
        (SERIES[0].ink, None),
        (SERIES[1].ink, '4 3'),
    ]


@pytest.mark.parametrize('count', [2, 9])
def test_it_stands_below_the_drawing_and_within_the_file(count):
    drawn = [Series(str(n), f'series {n}', 'ink') for n in range(count)]
    chart = Chart('k', 'caption', series=drawn)
    with chart.panel('', 'described') as figure:
        ax = figure.subplots()
        for s in drawn:
            mark(ax.plot([0, 1], [0, 1], **s.line)[0], series=s.slug)
    root = ElementTree.fromstring(unquote(chart.panels[0].file.partition(',')[2]))
    _, top, width, height = map(float, root.get('viewBox').split())
    below = 72 * 3.1
    (legend,) = (element for element in root.iter(f'{{{SVG}}}g') if 'data-legend' in element.attrib)
    names = [(float(t.get('x')), float(t.get('y'))) for t in legend.iter(f'{{{SVG}}}text')]
    assert len({*names}) == count
    assert all(0 < x < width and below < y < top + height for x, y in names)


def test_what_the_drawing_names_itself_is_not_named_twice():
    root = file_of(SERIES, names=['learned classes', 'AtP & kin'])
    assert texts(root).count('AtP & kin') == 1


def test_long_names_stay_within_the_file():
    long = [Series('a', 'w' * 90, 'ink'), Series('b', 'short', 'blue')]
    root = file_of(long, 'W' * 90)
    width = float(root.get('viewBox').split()[2])
    wide = [t for t in root.iter(f'{{{SVG}}}text') if 'ww' in t.text.lower()]
    assert len(wide) == 2
    assert all(float(t.get('x')) + float(t.get('textLength')) <= width for t in wide)


def test_a_single_series_needs_no_legend():
    assert SERIES[0].title not in texts(file_of(SERIES[:1]))


def test_the_title_stands_above():
    root = file_of(SERIES[:1], 'Accuracy without it')
    _, top, *_ = map(float, root.get('viewBox').split())
    (title,) = (t for t in root.iter(f'{{{SVG}}}text') if t.text == 'Accuracy without it')
    assert top < float(title.get('y')) <= 0
