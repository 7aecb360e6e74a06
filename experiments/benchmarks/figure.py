"""The curves of the suite `growth`, drawn: cost against size, both over the smallest."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from cdjax.report.chart import MARKERS
from cdjax.report.svg import PALETTE, render, style

_COLOURS = ('blue', 'vermillion', 'green', 'orange', 'purple', 'sky', 'ink', 'grey', 'muted')


def draw(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns an SVG file: a line for each curve, its slope the exponent, beside a slope of 1."""
    with style('growth'):
        figure = Figure(figsize=(7.2, 4.2), layout='constrained')
        axes = figure.subplots()
        longest = 1.0
        looks = zip(_COLOURS, MARKERS, strict=False)
        for (name, curve), (colour, marker) in zip(curves.items(), looks, strict=False):
            sizes, cpu = (np.array(curve[key]) for key in ('sizes', 'cpu_seconds'))
            label = f'{name}: {curve["exponent"]:.2f}'
            axes.plot(
                sizes / sizes[0], cpu / cpu[0], marker, ls='-', color=PALETTE[colour], label=label
            )
            longest = max(longest, sizes[-1] / sizes[0])
        axes.plot([1, longest], [1, longest], color=PALETTE['rule'], ls='--', label='1')
        for axis in (axes.xaxis, axes.yaxis):
            axis.axes.set(xscale='log', yscale='log')
            axis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
            axis.set_minor_locator(NullLocator())
        axes.set(xlabel='size, times the smallest', ylabel='CPU seconds, times the least')
        figure.legend(loc='outside right upper', frameon=False, title='what grows: exponent')
        return render(figure, 'How the cost of a pass or step grows with each size')[1]
