"""What the classes know: of the problems' structure, and of their answers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.classes import CLASSES, Sorting
from cdjax.data import Dataset
from cdjax.evaluation.classes import (
    agreement,
    answer_information,
    chance_information,
    class_table,
    constant_answer_accuracy,
)


def study_classes(dataset: Dataset, rows: np.ndarray, circuit: Circuit) -> dict[str, Any]:
    """Compares the circuits' classes with the known structure of the problems.

    Args:
        dataset: all problems.
        rows: int, those that are evaluated.
        circuit: the circuits.
    """
    classes = circuit.assignments[rows]
    return {
        label: {
            **dataclasses.asdict(agreement(classes, values[rows])),
            'names': list(dataset.label_names[label]),
            'table': class_table(classes, values[rows], circuit.num_classes).tolist(),
        }
        for label, values in dataset.labels.items()
    }


def study_leak(
    dataset: Dataset,
    rows: np.ndarray,
    circuit: Circuit,
    seed: int,
    assigned: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Returns what the classes of every scheme give away of the answer, by key of the scheme.

    Args:
        dataset: all problems.
        rows: int, those that are evaluated.
        circuit: the circuits that are studied.
        seed: of schemes that draw.
        assigned: classes int `[N]` by key of schemes that have sorted the problems already. Left
            out are schemes that have not and need a model, or structure that the problems lack.
    """
    sorting = Sorting(dataset, circuit.num_classes, seed, circuit.assignments)
    found, answers = {}, dataset.answer_ids[rows]
    for key, scheme in CLASSES.items():
        given = (assigned or {}).get(key)
        classes = scheme.assign(sorting) if given is None else given
        if classes is None:
            continue
        num_classes = circuit.num_classes if scheme.from_learned else int(classes.max()) + 1
        here = classes[rows]
        found[key] = {
            'bits': answer_information(here, answers),
            'chance_bits': chance_information(here, answers),
            'most_bits': float(np.log2(num_classes)),
            'constant_answer_accuracy': constant_answer_accuracy(here, answers),
        }
    return found
