"""Heat maps of a report, in cividis, with their values in the cells where there is room."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cdjax.colours import PALETTE
from cdjax.report.chart import Chart
from cdjax.report.names import arm_name
from cdjax.report.svg import PANEL, mark

MAP = matplotlib.colormaps['cividis'].resampled(48)
_MAX_CELLS_WITH_VALUES = 150
_MAX_CELLS = 2000  # of a panel; of a model of a hundred layers the page would grow by megabytes


def layer_map(study: Mapping[str, Any]) -> Chart:
    """Draws the share of each layer's neurons in each class's circuit, and their overlap."""
    share, overlap = np.array(study['layer_share']), np.array(study['overlap'])
    classes, layers = share.shape
    chart = Chart(
        'layers',
        'Left: per cent of the neurons of each layer that belong to the circuit of each class. '
        'Right: intersection over union (IoU) of each two circuits; random masks of their size '
        f'have {study["chance_overlap"]:.2f}.',
        ['class', 'quantity', 'layer or class', 'value'],
        [[k, 'share of the layer', n, share[k, n]] for k in range(classes) for n in range(layers)]
        + [[k, 'IoU', j, overlap[k, j]] for k in range(classes) for j in range(classes)],
    )
    with chart.panel(
        'Share of each layer',
        f'Heat map of the share of the neurons of {layers} layers in the circuits of {classes} '
        f'classes, up to {100 * share.max():.0f} %.',
        (PANEL[0], _height(classes)),
    ) as figure:
        _heat_map(figure, share, 'class', 'layer', top=max(share.max(), 1e-9), unit='%')
    with chart.panel(
        'Overlap of two circuits',
        f'Heat map of the intersection over union of each two of {classes} circuits.',
        (PANEL[0], _height(classes)),
    ) as figure:
        _heat_map(figure, overlap, 'class', 'class', unit='IoU')
    return chart


def selectivity_maps(
    key: str,
    matrices: Mapping[str, Sequence[Sequence[float | None]]],
    caption: str,
    *,
    of: str = 'accuracy',
    without: str = 'circuit',
) -> Chart:
    """Draws what class k keeps without circuit j, in one panel for each matrix, on one scale.

    Args:
        key: of the chart.
        matrices: title → `[j][k]`, None for an empty class.
        caption: of the chart.
        of: what is kept.
        without: what of a circuit is ablated.
    """
    arrays = {title: np.array(matrix, float) for title, matrix in matrices.items()}
    chart = Chart(
        key,
        caption,
        ['masks', f'{without} ablated', 'class', of],
        [
            [title, j, k, None if np.isnan(v) else v]
            for title, matrix in arrays.items()
            for (j, k), v in np.ndenumerate(matrix)
        ],
    )
    for title, matrix in arrays.items():
        own = np.nanmean(np.diag(matrix)) if not np.isnan(np.diag(matrix)).all() else math.nan
        described = (
            f'Heat map of the {of} on each of {len(matrix)} classes with each {without} ablated; '
            f'with the {without} of the class itself, on average {100 * own:.0f} %.'
        )
        with chart.panel(title, described, (PANEL[0], _height(len(matrix)))) as figure:
            _heat_map(figure, matrix, f'without {without}', f'{of} on class', unit='%')
    return chart


def similarity_maps(similarity: Mapping[str, Any]) -> Chart:
    """Draws the CKA of every layer of the teacher with every layer of itself and of students."""
    models = {'the teacher': similarity['teacher']}
    models |= {f'the student of {arm_name(arm)}': m for arm, m in similarity['students'].items()}
    chart = Chart(
        'similarity',
        'Debiased linear CKA of the neurons of two layers at the answer position, on '
        f'{similarity["problems"]:,} unseen problems: 1 is equal up to rotation and scale, about 0 '
        'unrelated.',
        ['model', 'layer of the teacher', 'layer of the model', 'CKA'],
        [
            [name, t, s, v]
            for name, matrix in models.items()
            for t, row in enumerate(matrix)
            for s, v in enumerate(row)
        ],
    )
    for name, matrix in models.items():
        values = np.array(matrix, float)
        described = (
            f'Heat map of the CKA of {len(matrix)} layers of the teacher with {len(matrix[0])} of '
            f'{name}, from {values.min():.2f} to {values.max():.2f}.'
        )
        title = name[:1].upper() + name[1:]
        columns = f'layer of {name.partition(" of ")[0]}'
        with chart.panel(title, described, (PANEL[0], _height(len(matrix)))) as figure:
            _heat_map(figure, values, 'layer of the teacher', columns, unit='CKA')
    return chart


def _heat_map(
    figure: Figure, values: np.ndarray, rows: str, columns: str, *, unit: str, top: float = 1.0
) -> None:
    """Draws a matrix from 0 to `top`; NaN cells stay empty.

    Args:
        figure: to draw on.
        values: [rows, columns].
        rows: what a row is; they are numbered.
        columns: what a column is.
        unit: '%' for parts, else the name of the number.
        top: the end of the scale.
    """
    ax = figure.subplots()
    norm = Normalize(0, top)
    cells = ax.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=MAP,
        norm=norm,
        edgecolors=PALETTE['paper'],
        linewidth=1.5 if values.size <= _MAX_CELLS_WITH_VALUES else 0.3,
        antialiased=True,
    )
    if values.size <= _MAX_CELLS:
        tips = [
            f'{rows} {i}, {columns} {j}: {_cell(v, unit)} {unit}'
            for (i, j), v in np.ndenumerate(values)
        ]
        mark(cells, tips=tips)
    ax.invert_yaxis()
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for axis, n in ((ax.xaxis, values.shape[1]), (ax.yaxis, values.shape[0])):
        at = np.arange(0, n, max(1, math.ceil(n / 16)))
        axis.set_ticks(at + 0.5, at)
    ax.set_xlabel(columns)
    ax.set_ylabel(rows)
    if values.size <= _MAX_CELLS_WITH_VALUES:
        for (i, j), value in np.ndenumerate(values):
            empty = np.isnan(value)
            dark = not empty and norm(value) < 0.55
            ax.text(
                j + 0.5,
                i + 0.5,
                _cell(value, unit),
                ha='center',
                va='center',
                color='#ffffff' if dark else PALETTE['muted'] if empty else '#111111',
                fontsize=8,
                in_layout=False,  # it lies within the cell, and measuring takes time
            )
    bar = figure.colorbar(cells, ax=ax, fraction=0.05, pad=0.03, aspect=14)
    bar.outline.set_visible(False)
    # Matplotlib would draw it as a bitmap, and its edges would show as seams.
    bar.solids.set(rasterized=False, edgecolor='face')
    ticks = [0, top / 2, top]
    bar.set_ticks(ticks, labels=[_cell(tick, unit) for tick in ticks])
    bar.set_label(unit, fontsize=8)


def _cell(value: float, unit: str) -> str:
    """Returns a value in per cent, or with two decimals."""
    if np.isnan(value):
        return '–'
    if unit != '%':
        return f'{value:.2f}'.replace('-', '−')
    return f'{100 * value:.1f}' if 0 < value < 0.00995 else f'{100 * value:.0f}'


def _height(rows: int) -> float:
    return min(1.2 + 0.36 * max(rows, 3), 7.0)
