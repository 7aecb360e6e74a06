"""What is told of students beside their accuracy: how sure they are, how far they reach.

And what they forget, which is held against what they knew before, see `ArmTables.describe_start`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.inference.perplexity import perplexity
from cdjax.inference.predictions import predict
from cdjax.models import Llama
from cdjax.studies.beside_kd import beside_kd
from cdjax.studies.inputs import Inputs

# What is told of each arm, by the field of its runs: its name in tables.
COSTS = {
    'brier': 'Brier score on unseen problems (0 to 2, lower is better)',
    'ece': 'expected calibration error on unseen problems',
    'confidence': 'probability of the likeliest token, unseen problems',
    'beyond': 'accuracy beyond the limits of the share',
    'rival': 'answers of the rival rule beyond the limits of the share',
    'perplexity': 'perplexity of the text',
    'others': 'accuracy on other tasks',
}


def measure_beyond(model: Llama, inputs: Inputs, most: int, **passes) -> dict[str, float | None]:
    """Returns what a model answers to unseen problems beyond the limits of the share.

    Args:
        model: a student, or the teacher.
        inputs: the problems.
        most: problems that are answered, at most.
        **passes: mesh and tokens of a pass.

    Returns:
        `beyond`, its accuracy, None without limits; `rival`, how often it gives the answer of the
        rival task, None without one.
    """
    if not len(inputs.beyond):
        return {'beyond': None, 'rival': None}
    order = np.random.default_rng(0).permutation(inputs.beyond)
    rows, rival = np.sort(order[:most]), inputs.rival_answers
    said = predict(model, inputs.dataset[rows], **passes)
    given = None if rival is None else float((said.tokens == rival[rows]).mean())
    return {'beyond': said.accuracy, 'rival': given}


def measure_forgetting(model: Llama, inputs: Inputs, most: int, **passes) -> dict[str, Any]:
    """Returns what a student still knows of what it is not distilled on.

    Args:
        model: the student.
        inputs: the text and the other tasks.
        most: problems of each task that are answered, at most.
        **passes: mesh and tokens of a pass.

    Returns:
        `perplexity` of the text, None without one; `other_tasks`, the accuracy on each; `others`,
        their mean, None without any.
    """
    told = {}
    for task, problems in inputs.others.items():
        rows = np.sort(np.random.default_rng(0).permutation(len(problems))[:most])
        told[task] = predict(model, problems[rows], **passes).accuracy
    return {
        'perplexity': None if inputs.text is None else perplexity(model, inputs.text, **passes),
        'other_tasks': told,
        'others': float(np.mean(list(told.values()))) if told else None,
    }


def summarise_costs(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row an arm: each of `COSTS` that its students have, see `beside_kd`.

    Args:
        runs: one for each student of a start.
    """
    of = {(run['arm'], run['seed']): run for run in runs}
    told = [key for key in COSTS if any(run[key] is not None for run in runs)]
    rows = []
    for arm in dict.fromkeys(run['arm'] for run in runs):
        seeds = [run['seed'] for run in runs if run['arm'] == arm]
        row = {'arm': arm, 'seeds': len(seeds)}
        for key in told:
            value = lambda arm, seed, key=key: of.get((arm, seed), {}).get(key)
            row[key] = beside_kd(arm, seeds, value)
        rows.append(row)
    return rows
