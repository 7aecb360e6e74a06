"""A figure of the page: panels, a legend that toggles series, and its numbers as CSV."""

import contextlib
import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from cdjax.colours import PALETTE
from cdjax.report.standalone import standalone
from cdjax.report.svg import PANEL, data_uri, render, style
from cdjax.wording import MINUS

# Markers, and their shapes in a box of 10 by 10 for a legend.
MARKERS = {
    'o': 'M5 2a3 3 0 1 0 .01 0z',
    's': 'M2 2h6v6h-6z',
    'D': 'M5 1l4 4l-4 4l-4-4z',
    '^': 'M5 1.5l4 7h-8z',
    'v': 'M5 8.5l4-7h-8z',
    'P': 'M4 1h2v3h3v2h-3v3h-2v-3h-3v-2h3z',
    'X': 'M1 2.4l1.4-1.4l2.6 2.6l2.6-2.6l1.4 1.4l-2.6 2.6l2.6 2.6l-1.4 1.4l-2.6-2.6l-2.6 2.6'
    'l-1.4-1.4l2.6-2.6z',
    '<': 'M1.5 5l7-4v8z',
    '>': 'M8.5 5l-7-4v8z',
}
STROKES = {'solid': '', 'dashed': '4 3', 'dotted': '1 2', 'dashdot': '5 2 1 2'}
_STEM = 'cdjax'
_ROOM = 0.018  # of a digit of a tick's name, as part of an axis of a panel
_MAX_ROWS_SHOWN, _MAX_COLUMNS = 120, 24


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a legend: what a figure draws in one colour, with one marker.

    Attributes:
        key: of the series within its figure.
        title: its name.
        colour: a name of `PALETTE`, or `#rrggbb`.
        marker: of its points, so that colour is never alone in telling series apart.
        stroke: of its lines: `solid`, `dashed`, `dotted` or `dashdot`.
        bold: whether it is the one that the figure is about.
    """

    key: str
    title: str
    colour: str
    marker: str = 'o'
    stroke: str = 'solid'
    bold: bool = False

    @property
    def slug(self) -> str:
        """Its key as an SVG and a style sheet take it."""
        return re.sub(r'\W', '_', self.key)

    @property
    def ink(self) -> str:
        """Its colour as Matplotlib takes it."""
        return PALETTE.get(self.colour, self.colour)

    @property
    def css(self) -> str:
        """Its colour as the page takes it."""
        return f'var(--{self.colour})' if self.colour in PALETTE else self.colour

    @property
    def dashes(self) -> str:
        """Its stroke in a legend, an SVG dash array; '' where it is solid."""
        return STROKES[self.stroke]

    @property
    def shape(self) -> str:
        """Its marker in a legend, an SVG path."""
        return MARKERS[self.marker]

    @property
    def line(self) -> dict[str, Any]:
        """How Matplotlib draws it."""
        return {
            'color': self.ink,
            'marker': self.marker,
            'linewidth': 2.2 if self.bold else 1.2,
            'markersize': 4.5 if self.bold else 3.2,
            'linestyle': self.stroke,
            'zorder': 4 if self.bold else 3,
        }


@dataclasses.dataclass(frozen=True)
class Panel:
    """One SVG of a figure.

    Attributes:
        title: its name, '' where the figure has no other panel.
        inches: its width.
        svg: the element for the page.
        file: the same as a file with its title and legend, an address of a link.
    """

    title: str
    inches: float
    svg: str
    file: str


@dataclasses.dataclass
class Chart:
    """A figure of the page.

    Attributes:
        key: its own on the page.
        caption: what it shows, with units.
        header: names of the columns of its numbers, with units.
        rows: its numbers, as they are in the results.
        series: its legend.
        panels: what is drawn.
    """

    key: str
    caption: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    series: Sequence[Series] = ()
    panels: list[Panel] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def panel(
        self, title: str, description: str, size: tuple[float, float] = PANEL, layout='constrained'
    ) -> Iterator[Figure]:
        """Gives a Matplotlib figure to draw on, and keeps it as the next panel.

        Args:
            title: of the panel, '' where the chart has no other.
            description: what a reader who cannot see it is told, behind the title.
            size: width and height in inches.
            layout: of the Matplotlib figure; None to place axes by hand, which is quicker.
        """
        with style(f'{self.key}-{len(self.panels)}'):
            figure = Figure(figsize=size, layout=layout)
            yield figure
            svg, file = render(figure, f'{title}. {description}' if title else description)
            file = data_uri('image/svg+xml', standalone(file, title, self.series))
            self.panels.append(Panel(title, size[0], svg, file))

    @property
    def csv(self) -> str:
        """The address of a link to its numbers."""
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows([self.header, *self.rows])
        return data_uri('text/csv', text.getvalue())

    @property
    def shown_rows(self) -> Sequence[Sequence[Any]]:
        """Its rows where they are few enough to be read on the page, none else."""
        few = (
            len(self.rows) <= _MAX_ROWS_SHOWN
            and max(map(len, self.rows), default=0) <= _MAX_COLUMNS
        )
        return self.rows if few else ()

    @property
    def text(self) -> str:
        """Its numbers as lines of columns, for those that are too many for a table."""
        lines = [[str(plain(cell)) for cell in line] for line in (self.header, *self.rows)]
        columns = zip_longest(*lines, fillvalue='')
        widths = [max(map(len, column)) for column in columns]
        return '\n'.join(
            '  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=False))
            for line in lines
        )

    def file_name(self, kind: str, panel: int | None = None) -> str:
        """Returns the name under which the CSV or a panel's SVG is saved."""
        number = '' if panel is None or len(self.panels) == 1 else f'-{panel + 1}'
        return f'{_STEM}-{self.key}{number}.{kind}'


def marker(index: int) -> str:
    """Returns a marker for the series of a place in a legend."""
    return list(MARKERS)[index % len(MARKERS)]


def share_axis(ax: Axes, shares: Sequence[float]) -> None:
    """Makes x the size of a circuit, on a logarithmic scale; names no two that would collide."""
    ax.set_xscale('log')
    low, high = min(shares) * 0.9, max(shares) * 1.1
    ax.set_xlim(low, high)
    shown: dict[float, str] = {}
    for share in sorted(shares, reverse=True):
        name = _size(100 * share)
        room = math.log(min(shown, default=math.inf) / share) / math.log(high / low)
        if room > _ROOM * (len(name) + 1):
            shown[share] = name
    ax.set_xticks(list(shown), list(shown.values()), fontsize=8)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis='x', visible=False)
    ax.set_xlabel('neurons in the circuit, % of all (log scale)')


def _size(percent: float) -> str:
    """Returns a size in as few digits as are within 3 % of it: one neuron of 1,024 is `0.1`."""
    rounded = (float(f'{percent:.{digits}g}') for digits in (1, 2, 3))
    return f'{next(value for value in rounded if abs(value - percent) <= 0.03 * percent):g}'


def percent_axis(ax: Axes, top: float = 104) -> None:
    """Makes y per cent from 0."""
    ax.set_ylim(0, top)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} %'))
    ax.grid(axis='x', visible=False)


def true_minus(axis: Axis) -> None:
    """Writes numbers of an axis with a true minus sign."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'.replace('-', MINUS)))


def reference(ax: Axes, *, x: float | None = None, y: float | None = None) -> None:
    """Draws a dotted line to compare with."""
    line = {'color': PALETTE['muted'], 'linewidth': 0.8, 'dashes': (1, 2)}
    if x is not None:
        ax.axvline(x, **line)
    if y is not None:
        ax.axhline(y, **line)


def plain(value: Any) -> Any:
    """Returns a number of a table as it is shown: at most six digits."""
    if isinstance(value, float) and math.isfinite(value):
        return f'{value:.6g}'.replace('-', MINUS)
    return '' if value is None else value
