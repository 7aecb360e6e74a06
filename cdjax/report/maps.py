"""Heat maps of a report, in cividis, with their values in the cells."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cdjax.report.svg import PALETTE, WIDTH, inline_svg, style
from cdjax.wording import percent

_MAP = matplotlib.colormaps['cividis'].resampled(48)
_MAX_CELLS_WITH_VALUES = 150


def layer_map(study: Mapping[str, Any]) -> str:
    """Draws the share of each layer's neurons in each class's circuit, and their overlap."""
    with style('layers'):
        share = np.array(study['layer_share'])
        classes, layers = share.shape
        wide = layers > 2 * classes
        figure = Figure(figsize=(WIDTH, _map_height(classes)), layout='constrained')
        left, right = figure.subplots(1, 2, gridspec_kw={'width_ratios': [2 if wide else 1.1, 1]})
        _heat_map(
            figure,
            left,
            share,
            rows=_classes(classes),
            columns=[str(layer) for layer in range(layers)],
            top=max(share.max(), 1e-9),
        )
        left.set_title('Share of each layer’s neurons')
        left.set_xlabel('layer')
        _heat_map(
            figure,
            right,
            np.array(study['overlap']),
            rows=_classes(classes),
            columns=_numbers(classes),
            top=1.0,
            digits=2,
        )
        right.set_title('Overlap of two circuits (IoU)')
        right.set_xlabel(f'class; random masks overlap by {study["chance_overlap"]:.2f}')
        return inline_svg(
            figure,
            f'Heat maps: the share of the neurons of {layers} layers in the circuits of {classes} '
            f'classes, and the intersection over union of each two circuits.',
        )


def selectivity_maps(
    name: str, matrices: Mapping[str, Sequence[Sequence[float | None]]], counts: Sequence[int]
) -> str:
    """Draws accuracy on class k without circuit j, in one panel for each matrix, on one scale.

    Args:
        name: of the figure.
        matrices: title → `[j][k]`, None for an empty class.
        counts: problems of each class.
    """
    with style(name):
        classes = len(counts)
        columns = min(len(matrices), 3)
        rows = math.ceil(len(matrices) / columns)
        figure = Figure(figsize=(WIDTH, rows * _map_height(classes)), layout='constrained')
        axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for ax in axes[len(matrices) :]:
            ax.set_axis_off()
        for i, (ax, (title, matrix)) in enumerate(zip(axes, matrices.items(), strict=False)):
            _heat_map(
                figure,
                ax,
                np.array(matrix, float),
                rows=[f'without {k}' if i % columns == 0 else '' for k in range(classes)],
                columns=_numbers(classes),
                top=1.0,
                bar=i in (columns - 1, len(matrices) - 1),
            )
            ax.set_title(title)
            ax.set_xlabel('accuracy on class')
        numbers = '; '.join(
            f'{title}: '
            + ', '.join(f'without {j} ' + ' '.join(map(percent, row)) for j, row in enumerate(m))
            for title, m in matrices.items()
        )
        return inline_svg(
            figure,
            'Heat maps of the accuracy on each class with each circuit ablated. '
            + (numbers if classes <= 8 else ''),
        )


def _heat_map(figure, ax, values, *, rows, columns, top, digits=None, bar=True) -> None:
    """Draws a matrix with its values in the cells; NaN cells stay empty."""
    shown = np.ma.masked_invalid(values)
    norm = Normalize(0, top)
    cells = ax.pcolormesh(
        shown, cmap=_MAP, norm=norm, edgecolors=PALETTE['paper'], linewidth=1.5, antialiased=True
    )
    ax.invert_yaxis()
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    step = max(1, math.ceil(len(columns) / 16))
    ax.set_xticks(np.arange(len(columns))[::step] + 0.5, columns[::step])
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    if values.size <= _MAX_CELLS_WITH_VALUES:
        for (i, j), value in np.ndenumerate(values):
            text = '–' if np.isnan(value) else _cell(value, digits)
            dark = not np.isnan(value) and norm(value) < 0.55
            ax.text(
                j + 0.5,
                i + 0.5,
                text,
                ha='center',
                va='center',
                color='#ffffff' if dark else PALETTE['muted'] if text == '–' else '#111111',
                fontsize=8,
                in_layout=False,  # it lies within the cell, and measuring takes time
            )
    if bar:
        colour_bar = figure.colorbar(cells, ax=ax, fraction=0.05, pad=0.03, aspect=14)
        colour_bar.outline.set_visible(False)
        # Matplotlib would draw it as a bitmap, and its edges would show as seams.
        colour_bar.solids.set(rasterized=False, edgecolor='face')
        ticks = [0, top / 2, top]
        colour_bar.set_ticks(ticks, labels=[_cell(tick, digits) for tick in ticks])


def _cell(value: float, digits: int | None) -> str:
    """Returns a value as it is with `digits`, in per cent without them."""
    if digits is not None:
        return f'{value:.{digits}f}'
    return f'{100 * value:.1f}' if 0 < value < 0.00995 else f'{100 * value:.0f}'


def _map_height(classes: int) -> float:
    return min(1.1 + 0.42 * classes, 8.0)


def _classes(n: int) -> list[str]:
    return [f'class {k}' for k in range(n)]


def _numbers(n: int) -> list[str]:
    return [str(k) for k in range(n)]
