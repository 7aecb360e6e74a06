"""Scores as averages over the problems of each class, of something told from one problem."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cdjax.circuits.methods.method import Context
from cdjax.data import Dataset
from cdjax.inference.rows import class_means


def average_by_class(
    function: Callable[[Any, Any], Any],
    constants: Any,
    dataset: Dataset,
    rows: np.ndarray,
    classes: np.ndarray,
    context: Context,
) -> Any:
    """Returns the averages of a function over the problems of each class, once for a context.

    Args:
        function: `(constants, rows) -> results`, see `cdjax.inference.rows.map_rows`; one and the
            same for equal settings. Of the rows it gets tokens, lengths, answers and those of the
            counterfactuals.
        constants: a model, or a pytree that holds it.
        dataset: N problems.
        rows: int, the problems to average over.
        classes: int `[N]`.
        context: of the method.

    Returns:
        What the function returns for one row, float32 `[K, ...]`; a class that holds none of the
        rows gets the average over all of them.
    """
    num_classes = int(classes.max()) + 1
    compute = lambda: class_means(
        function, constants, columns(dataset[rows]), classes[rows], num_classes, **context.passes
    )
    return context.once((function, classes[rows].tobytes(), num_classes), compute)


def columns(dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns what of a data set goes into a model, and what its answers are held against."""
    names = ('tokens', 'lengths', 'answers', 'counterfactual_tokens', 'counterfactual_answers')
    return {name: getattr(dataset, name) for name in names}
