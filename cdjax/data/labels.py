"""Known structure of arithmetic problems, to compare latent classes with."""

from collections.abc import Sequence

import numpy as np

from cdjax.data.expressions import OPERATORS, SIGNS, row_ids

MAX_BINS = 10

Label = tuple[np.ndarray, tuple[str, ...]]


def expression_labels(operators: np.ndarray, carries: np.ndarray) -> dict[str, Label]:
    """Labels that follow from the expressions: `operators` and `carry`.

    Args:
      operators: int [N, n - 1], indices into OPERATORS, -1 where an expression is shorter.
      carries: bool [N].
    """
    ids = row_ids(operators)
    firsts = np.unique(ids, return_index=True)[1]
    names = (' '.join(SIGNS[OPERATORS[o]] for o in row if o >= 0) for row in operators[firsts])
    return {
        'operators': (ids.astype(np.int32), tuple(names)),
        'carry': (carries.astype(np.int32), ('no carry', 'carry')),
    }


def answer_labels(answers: Sequence[int] | Sequence[str]) -> dict[str, Label]:
    """Labels that follow from the answers: `answer`, and of integers `magnitude` and `parity`.

    The bins of `magnitude` are as wide as the smallest power of ten, from ten on, that makes at
    most ten of them: tens for answers up to 99, hundreds up to 999.
    """
    values, ids = np.unique(np.asarray(answers), return_inverse=True)
    labels = {'answer': (ids.astype(np.int32), tuple(map(str, values)))}
    if values.dtype.kind == 'i':
        width = 10
        while values[-1] // width - values[0] // width >= MAX_BINS:
            width *= 10
        bins, of_value = np.unique(values // width, return_inverse=True)
        names = tuple(f'{low * width} to {low * width + width - 1}' for low in bins)
        labels['magnitude'] = (of_value[ids].astype(np.int32), names)
        labels['parity'] = ((values[ids] % 2).astype(np.int32), ('even', 'odd'))
    return labels


def text_labels(values: Sequence[str]) -> Label:
    """Labels of texts, numbered in the order in which they first occur."""
    names = tuple(dict.fromkeys(values))
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[value] for value in values], np.int32), names
