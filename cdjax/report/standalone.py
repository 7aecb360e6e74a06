"""A panel that leaves its page: what the page says around it goes with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from cdjax.colours import PALETTE
from cdjax.report.svg import SVG

if TYPE_CHECKING:
    from cdjax.report.chart import Series

# In units of the file, 72 an inch: of a swatch and what follows it, of a letter, of a line.
_SWATCH, _GAP, _LETTER, _LINE = 26, 6, 5.2, 14


def standalone(svg: str, title: str, series: Sequence['Series']) -> str:
    """Returns a panel's file with its title above it, and the legend of what it draws below.

    Args:
        svg: the text of the file, where `data-series` says what is drawn.
        title: of the panel; '' adds none.
        series: those of the figure. Where the drawing names all that are in it, none is added.
    """
    root = ElementTree.fromstring(svg)
    drawn = {element.get('data-series') for element in root.iter()}
    words = {(element.text or '').strip() for element in root.iter(f'{{{SVG}}}text')}
    shown = [s for s in series if s.slug in drawn]
    _, top, width, height = map(float, root.get('viewBox').split())
    bottom = top + height
    if title:
        top -= _LINE
        _write(root, title, _GAP, top + _LINE - 3, width, **{'font-weight': 'bold'})
    if len(shown) > 1 and not {s.title for s in shown} <= words:
        bottom = _draw_legend(root, shown, width, bottom)
    root.set('viewBox', f'0 {top:g} {width:g} {bottom - top:g}')
    root.set('height', f'{bottom - top:g}pt')
    return ElementTree.tostring(root, encoding='unicode')


def _draw_legend(root, shown, width, bottom) -> float:
    """Draws strokes, markers and names in as many lines as they take; returns the new bottom."""
    legend = ElementTree.SubElement(root, f'{{{SVG}}}g', {'data-legend': ''})
    x, y = _GAP, bottom + _LINE / 2
    for s in shown:
        taken = _SWATCH + _GAP + _LETTER * len(s.title) + 2 * _GAP
        if x > _GAP and x + taken > width:
            x, y = _GAP, y + _LINE
        line = {'d': f'M{x:g} {y:g}h{_SWATCH}', 'fill': 'none', 'stroke': s.ink}
        line['stroke-width'] = '2.4' if s.bold else '1.4'
        if s.dashes:
            line['stroke-dasharray'] = s.dashes
        ElementTree.SubElement(legend, f'{{{SVG}}}path', line)
        mark = {'d': s.shape, 'transform': f'translate({x + 8:g} {y - 5:g})', 'fill': s.ink}
        ElementTree.SubElement(legend, f'{{{SVG}}}path', mark)
        _write(legend, s.title, x + _SWATCH + _GAP, y + 3, width)
        x += taken
    return y + _LINE


def _write(within, text, x, y, width, **more) -> None:
    """Writes a line, narrower where it would run over the edge."""
    room = width - x - _GAP
    if _LETTER * len(text) > room:
        more |= {'textLength': f'{room:g}', 'lengthAdjust': 'spacingAndGlyphs'}
    font = {'font-size': '9', 'font-family': 'sans-serif', 'fill': PALETTE['ink']}
    place = {'x': f'{x:g}', 'y': f'{y:g}', **font, **more}
    ElementTree.SubElement(within, f'{{{SVG}}}text', place).text = text
