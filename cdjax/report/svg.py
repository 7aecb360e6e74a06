"""Matplotlib figures as SVG: for a page, whose colours they follow, and as a file of their own.

Matplotlib, and no library that draws in the browser, because nothing may be lost without
JavaScript: the page holds finished figures, which print and need no megabytes of script. What is to
be explored is written into them: `mark` names the series of an artist, which a legend toggles by
CSS alone, and gives each of its marks a text, which browsers show under the pointer.
"""

import io
import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from cdjax.colours import PALETTE

# Inches, at 72 units an inch. Two panels lie side by side on a desk, one fills a phone.
PANEL = (4.3, 3.1)

_STYLE = {
    'svg.fonttype': 'none',
    'font.size': 9,
    'axes.edgecolor': PALETTE['rule'],
    'axes.labelcolor': PALETTE['muted'],
    'axes.labelsize': 9,
    'axes.titlesize': 10,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.titlecolor': PALETTE['ink'],
    'axes.titlepad': 9,
    'axes.facecolor': 'none',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': PALETTE['rule'],
    'grid.linewidth': 0.6,
    'figure.facecolor': 'none',
    'text.color': PALETTE['ink'],
    'xtick.color': PALETTE['rule'],
    'ytick.color': PALETTE['rule'],
    'xtick.labelcolor': PALETTE['muted'],
    'ytick.labelcolor': PALETTE['muted'],
    'xtick.major.size': 0,
    'ytick.major.size': 0,
    'xtick.minor.size': 0,
    'lines.solid_capstyle': 'round',
    'savefig.facecolor': 'none',
}
SVG, _XLINK = 'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'
ElementTree.register_namespace('', SVG)
ElementTree.register_namespace('xlink', _XLINK)


def style(name: str):
    """Returns the context in which a figure is drawn and rendered.

    Args:
        name: of the figure; identities within its SVG are hashed with it, so that two figures of
            a page never share one, and two renderings of a figure are equal.
    """
    return matplotlib.rc_context({**_STYLE, 'svg.hashsalt': f'cdjax-{name}'})


def mark(
    artist: Artist,
    *,
    series: str | None = None,
    tips: Sequence[str] = (),
    cells: Mapping[str, Sequence] | None = None,
) -> None:
    """Says what an artist shows, before it is rendered.

    Args:
        artist: a line, a collection, an image.
        series: what a legend shows or hides it with.
        tips: a text for each of its marks, in the order of its data.
        cells: of an image in place of tips: `rows`, `columns` and `values`, row by row.
    """
    artist.set_gid(json.dumps({'series': series, 'tips': list(tips), 'cells': cells}))


def render(figure: Figure, description: str) -> tuple[str, str]:
    """Renders a figure within `style`.

    Args:
        figure: the figure.
        description: what a reader who cannot see it is told.

    Returns:
        An SVG element for an HTML page, where `PALETTE` is CSS variables and text takes the
        family that the page gives to `svg text` by a rule that is `!important`; and the figure
        as a file of its own.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={'Date': None})
    root = ElementTree.fromstring(buffer.getvalue())
    root.remove(root.find('{*}metadata'))
    for element in root.iter():
        _explain(element)
    alone = ElementTree.tostring(root, encoding='unicode')
    view = root.get('viewBox')
    root.attrib.clear()
    root.attrib.update({'viewBox': view, 'role': 'img', 'aria-label': description})
    for element in root.iter():  # within HTML, names have no namespace
        element.tag = _local(element.tag)
        element.attrib = {_local(key): value for key, value in element.attrib.items()}
    text = ElementTree.tostring(root, encoding='unicode')
    for name, colour in PALETTE.items():
        text = text.replace(colour, f'var(--{name})')
    return text, alone


def data_uri(kind: str, text: str) -> str:
    """Returns text as the address of a link that needs no network.

    Args:
        kind: its media type, `text/csv`.
        text: the content.
    """
    return f'data:{kind};charset=utf-8,{quote(text, safe=" !*(),-./:;=?@_~$+")}'


def _explain(element: ElementTree.Element) -> None:
    """Writes what `mark` says into the SVG; groups are numbered anew each time, so those go."""
    tag, name = _local(element.tag), element.attrib.get('id', '')
    if tag in ('g', 'image'):
        element.attrib.pop('id', None)
    if not name.startswith('{'):
        return
    said = json.loads(name)
    if said['series'] is not None:
        element.set('data-series', said['series'])
    if said['cells'] is not None:
        element.set('data-cells', json.dumps(said['cells'], ensure_ascii=False))
    marks = list(element.iter(f'{{{SVG}}}use')) or list(element.iter(f'{{{SVG}}}path'))
    for shape, tip in zip(marks, said['tips'], strict=bool(said['tips'])):
        ElementTree.SubElement(shape, f'{{{SVG}}}title').text = tip


def _local(name: str) -> str:
    return name.rpartition('}')[2]
