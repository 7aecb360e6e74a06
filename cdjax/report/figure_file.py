"""A figure of a page as a file of its own."""

import re
from urllib.parse import unquote

from cdjax.errors import InputError

_LINK = re.compile(
    r'download="cdjax-([^"]*)\.svg" href="data:image/svg\+xml;charset=utf-8,([^"]*)"'
)


def take_figure(page: str, name: str) -> str:
    """Returns a figure of a report as an SVG file, on white paper.

    Args:
        page: the text of the page.
        name: of the figure, as its link saves it: `neuron-1-7` of `cdjax-neuron-1-7.svg`.

    Raises:
        InputError: the page has no such figure.
    """
    figures = dict(_LINK.findall(page))
    if name not in figures:
        raise InputError(f'figure={name} is not in the report: choose from {", ".join(figures)}')
    head, end, rest = unquote(figures[name]).partition('>')
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'{head}{end}<title>{name}</title>{paper}{rest}\n'
