"""The weight of the alignment that suits each arm, chosen where the table does not look.

The losses of arms differ in scale, and no weight need suit all of them. Students of other seeds are
distilled with every weight of a grid and asked training forms outside the share, of which they have
learned nothing. The unseen forms that a table tells of take no part in the choice.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from cdjax.data.training_data import count_seen
from cdjax.distillation.arms import ARMS
from cdjax.errors import InputError
from cdjax.run.results import stored
from cdjax.studies.arms import ArmsConfig, drawn, rows_outside_share
from cdjax.studies.inputs import Inputs
from cdjax.studies.knowable import knowable_part
from cdjax.studies.places import weighed_name
from cdjax.studies.student import describe_training, distil, prepare
from cdjax.studies.tuning import chosen, summary

if TYPE_CHECKING:
    from cdjax.studies.students import Students


def validation_rows(inputs: Inputs, config: ArmsConfig) -> np.ndarray:
    """Returns the problems that weights are chosen on: training forms outside the share.

    They are within the limits of the share, as the unseen ones are.

    Raises:
        InputError: there are none.
    """
    outside, limits = rows_outside_share(inputs.split), inputs.config.limits
    if not limits.none:
        outside = outside[limits.within(inputs.dataset, inputs.config.prefix)[outside]]
    if not len(outside):
        raise InputError(
            f'{config.weight_grid}: all training forms within the limits are in the share, and '
            'none are left to choose on: set a smaller share'
        )
    return drawn(outside, config.max_problems)


def check_weights(inputs: Inputs, config: ArmsConfig) -> None:
    """Raises InputError where weights cannot be chosen; to be asked before a model is loaded."""
    rows = validation_rows(inputs, config)
    seen, _ = count_seen(inputs.trainings, inputs.dataset, rows)
    if seen:
        raise InputError(
            f'{config.weight_grid}: the student was trained on {seen:,} of the {len(rows):,} '
            'problems that weights would be chosen on, which tell what it remembers: leave it out'
        )


def students_tried(config: ArmsConfig) -> list[tuple[str, float, int]]:
    """Returns arm, weight and seed of all students by which weights are chosen, in their order."""
    grid = config.weight_grid
    return [
        (arm, weight, seed)
        for weight in grid.in_turn(config.distillation.weight)
        for seed in grid.seeds
        for arm in config.arms
        if ARMS[arm].align is not None
    ]


def choose_weights(students: 'Students', start: str) -> dict[str, Any]:
    """Distils students with every weight of the grid; returns which suits each arm of a start.

    The weight of the table stays where the best one is above it by no more than its own standard
    error, see `cdjax.studies.tuning.chosen`.

    Args:
        students: those of the table, which are not distilled for this.
        start: where they start from.

    Returns:
        `problems`, how many the choice is made on; `knowable`, see `knowable_part`; `seeds`; and
        `arms[]` of those that align something: `arm`, the weight that is `chosen`, and `tried[]`,
        ascending: `weight`, the `score` (accuracy) of each seed, their `mean` and its standard
        `error`, None with one seed.
    """
    inputs, config = students.run.inputs, students.arms
    rows, scores = validation_rows(inputs, config), {}
    for arm, weight, seed in students_tried(config):
        accuracy = _accuracy(students, rows, start, arm, weight, seed)
        scores.setdefault(arm, {}).setdefault(weight, []).append(accuracy)
    told = []
    for arm, by_weight in scores.items():
        tried = [{'weight': weight, **summary(score)} for weight, score in by_weight.items()]
        best = chosen(tried)['weight']
        tried = sorted(tried, key=lambda one: one['weight'])
        told.append({'arm': arm, 'chosen': best, 'tried': tried})
    return {
        'problems': len(rows),
        'knowable': knowable_part(inputs, rows),
        'seeds': list(config.weight_grid.seeds),
        'arms': told,
    }


def _accuracy(
    students: 'Students', rows: np.ndarray, start: str, arm: str, weight: float, seed: int
) -> float:
    """Distils one student with a weight; returns its accuracy on the problems of some rows."""
    run, name = students.run, weighed_name(start, arm, weight, seed)

    def compute():
        config = dataclasses.replace(students.arms.distillation_from(start), weight=weight)
        _, history = distil(
            run,
            prepare(ARMS[arm], students.given(start, seed), students.says),
            students.first(start, seed),
            config,
            run.inputs.dataset[rows],
            evaluate_every=config.optimizer.steps,
            workdir=run.places.weighing(name),
            description=f'choose weight: {arm}, {weight:g}, seed {seed}',
        )
        accuracy = describe_training(history)['curve'][-1][1]
        return {'arm': arm, 'weight': weight, 'seed': seed, 'accuracy': accuracy}

    return stored(run.places.result('weights', name), compute)['accuracy']
