"""Matplotlib figures as SVG that lives inside a page: its fonts, its colours, no identity clashes.

Text stays text. The colours of `PALETTE` become CSS variables, so that a figure follows the page
into a dark theme; heat maps keep theirs.
"""

import io
from collections.abc import Mapping
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH = 8.6  # inches, at 72 units an inch; the page scales it to its column

# Okabe and Ito's colours, safe for colour-blind readers, and the inks of the page.
PALETTE: Mapping[str, str] = {
    'ink': '#1f2328',
    'muted': '#6e7781',
    'rule': '#d8dee4',
    'paper': '#fefefe',
    'blue': '#0072b2',
    'vermillion': '#d55e00',
    'green': '#009e73',
    'orange': '#e69f00',
    'purple': '#cc79a7',
    'sky': '#56b4e9',
    'grey': '#8c959f',
}
_STYLE = {
    'svg.fonttype': 'none',
    'font.size': 8.5,
    'axes.edgecolor': PALETTE['rule'],
    'axes.labelcolor': PALETTE['muted'],
    'axes.labelsize': 8.5,
    'axes.titlesize': 9.5,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.titlecolor': PALETTE['ink'],
    'axes.titlepad': 10,
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


def style(name: str):
    """Returns the context in which a figure is drawn and rendered.

    Args:
        name: of the figure; identities within its SVG are hashed with it, so that two figures of
            a page never share one, and two renderings of a figure are equal.
    """
    return matplotlib.rc_context({**_STYLE, 'svg.hashsalt': f'cdjax-{name}'})


def inline_svg(figure: Figure, description: str) -> str:
    """Renders a figure within `style` as an SVG element for an HTML page.

    Its text takes the family that the page gives to `svg text`, by a rule that is `!important`.

    Args:
        figure: the figure.
        description: what a reader who cannot see it is told.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={'Date': None})
    root = ElementTree.fromstring(buffer.getvalue())
    view = root.get('viewBox')
    root.attrib.clear()
    root.attrib.update({'viewBox': view, 'role': 'img', 'aria-label': description})
    root.remove(root.find('{*}metadata'))
    for element in root.iter():  # within HTML, names have no namespace
        element.tag = _local(element.tag)
        element.attrib = {_local(key): value for key, value in element.attrib.items()}
        if element.tag == 'g':  # numbered anew in each figure, and nothing refers to them
            element.attrib.pop('id', None)
    text = ElementTree.tostring(root, encoding='unicode')
    for name, colour in PALETTE.items():
        text = text.replace(colour, f'var(--{name})')
    return text


def _local(name: str) -> str:
    return name.rpartition('}')[2]
