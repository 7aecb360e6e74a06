"""What is in each class: what its problems share, examples, and which answers are wrong."""

import functools
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.data import Dataset
from cdjax.data.encoding import NO_TOKEN
from cdjax.inference.predictions import predict
from cdjax.run.results import stored
from cdjax.studies.circuits import CircuitStudyConfig, unseen_rows
from cdjax.studies.run import Run

EXAMPLES, SHARED = 8, 5


def study_problems(run: Run, circuit: Circuit, config: CircuitStudyConfig) -> dict[str, Any]:
    """Describes the unseen problems of each class of the teacher's circuits, once.

    Args:
        run: the run.
        circuit: the teacher's circuits.
        config: which problems are measured, and with which ablation.

    Returns:
        What `results/problems.json` holds, see docs/artefacts.md.
    """
    path = run.places.result('problems')
    return stored(path, lambda: {'classes': _describe(run, circuit, config)})


def _describe(run: Run, circuit: Circuit, config: CircuitStudyConfig) -> list[dict[str, Any]]:
    rows = unseen_rows(run.inputs.split, config)
    problems, classes = run.inputs.dataset[rows], circuit.assignments[rows]
    answer = functools.partial(predict, run.teacher, problems, **run.passes)
    ablated = functools.partial(
        answer, classes=classes, fill=circuit.fill, ablation=config.ablation
    )
    answers = {
        'whole': answer(),
        'only': ablated(masks=circuit.masks),
        'without': ablated(masks=~circuit.masks),
    }
    decode = functools.cache(lambda tokens: run.inputs.tokenizer.decode(tokens).strip())

    def text(tokens: np.ndarray, i: int) -> str:
        given = np.atleast_1d(problems.answers[i]) != NO_TOKEN
        return decode(tuple(np.atleast_1d(tokens[i])[given].tolist()))

    def show(i: int) -> dict[str, str]:
        told = {name: text(found.tokens, i) for name, found in answers.items()}
        return {'prompt': str(problems.prompts[i]), 'answer': text(problems.answers, i), **told}

    rng = np.random.default_rng(config.seed)
    found = []
    for k in range(circuit.num_classes):
        mine = rng.permutation(np.flatnonzero(classes == k))
        wrong = mine[~answers['only'].correct[mine]]
        found.append(
            {
                'problems': len(mine),
                'shared': what_is_shared(problems, classes == k),
                'examples': [show(i) for i in mine[:EXAMPLES]],
                'wrong': [show(i) for i in wrong[:EXAMPLES]],
                'wrong_in_all': len(wrong),
            }
        )
    return found


def what_is_shared(problems: Dataset, chosen: np.ndarray) -> list[dict[str, Any]]:
    """Returns the known structure in which a class differs most from all problems.

    Args:
        problems: N problems.
        chosen: bool `[N]`, those of the class.

    Returns:
        At most one value of each label, the one whose part of the class is furthest above its part
        of all problems: `label`, `value`, `part` and `part_of_all`, the largest difference first.
    """
    if not chosen.any():
        return []
    shared = []
    for label, values in problems.labels.items():
        names = problems.label_names[label]
        of_all = np.bincount(values, minlength=len(names)) / len(values)
        of_class = np.bincount(values[chosen], minlength=len(names)) / chosen.sum()
        best = int((of_class - of_all).argmax())
        shared.append(
            {
                'label': label,
                'value': str(names[best]),
                'part': float(of_class[best]),
                'part_of_all': float(of_all[best]),
            }
        )
    return sorted(shared, key=lambda one: one['part_of_all'] - one['part'])[:SHARED]
