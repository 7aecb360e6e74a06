"""A weight is chosen where the table does not look; that in force stays unless one is better."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import toy_study as toy

from cdjax.data import Split
from cdjax.data.limits import Limits
from cdjax.data.training_data import TrainingData
from cdjax.distillation.arms import ARMS
from cdjax.errors import InputError
from cdjax.studies import weights
from cdjax.studies.analysis import analysis_hash
from cdjax.studies.arms import ArmsConfig
from cdjax.studies.weight_grid import WeightGrid

GRID = WeightGrid((0.3, 1.0, 3.0), (8, 9))
CONFIG = ArmsConfig(arms=('kd', 'all', 'circuits'), weight_grid=GRID)


def inputs(limits=Limits(), split=None, trainings=()):
    config = SimpleNamespace(limits=limits, prefix='', task=toy.TASK)
    split = toy.rows() if split is None else split
    return SimpleNamespace(config=config, dataset=toy.dataset(), split=split, trainings=trainings)


def test_each_arm_has_the_best_weight_unless_the_own_is_within_its_error(monkeypatch):
    of = {
        ('all', 0.3): (0.1, 0.2),
        ('all', 1.0): (0.5, 0.6),
        ('all', 3.0): (0.5, 0.9),  # .7 ± .2 is not above .55
        ('circuits', 0.3): (0.8, 0.9),  # .85 ± .05 is
        ('circuits', 1.0): (0.7, 0.7),
        ('circuits', 3.0): (0.1, 0.1),
    }
    asked = []

    def accuracy(students, rows, start, arm, weight, seed):
        asked.append((weight, seed, arm))
        return of[arm, weight][GRID.seeds.index(seed)]

    monkeypatch.setattr(weights, '_accuracy', accuracy)
    students = SimpleNamespace(run=SimpleNamespace(inputs=inputs()), arms=CONFIG)
    told = weights.choose_weights(students, 'nothing')
    assert {row['arm']: row['chosen'] for row in told['arms']} == {'all': 1.0, 'circuits': 0.3}
    assert [one['weight'] for one in told['arms'][0]['tried']] == [0.3, 1.0, 3.0]
    assert told['arms'][1]['tried'][0]['score'] == [0.8, 0.9]
    assert told['arms'][1]['tried'][0]['error'] == pytest.approx(0.05)
    assert told['problems'] == len(toy.rows().train) - len(toy.rows().share)
    assert told['knowable'] is None
    assert len(asked) == 3 * 2 * 2


def test_neither_students_nor_the_table_know_the_problems():
    dataset, split = toy.dataset(), toy.rows()
    rows = weights.validation_rows(inputs(), CONFIG)
    forms = set(dataset.forms[rows])
    assert forms
    assert not forms & (set(dataset.forms[split.share]) | set(dataset.forms[split.test]))
    few = weights.validation_rows(inputs(), dataclasses.replace(CONFIG, max_problems=5))
    assert len(few) == 5
    assert set(few) < set(rows)
    low = weights.validation_rows(inputs(Limits((3,))), CONFIG)
    within = Limits((3,)).within(dataset)
    assert len(low)
    assert set(low) == {row for row in rows if within[row]}


def test_where_nothing_is_left_to_choose_on_it_is_refused():
    split = toy.rows()
    with pytest.raises(InputError, match='share=1 leaves no training forms outside the share'):
        weights.check_weights(inputs(split=split._replace(share=split.train)), CONFIG)
    low = Limits((3,)).within(toy.dataset())
    whole = Split(split.train, split.train[low[split.train]], split.test)
    with pytest.raises(InputError, match=r'weight_grid=0.3,1,3: all training forms within the lim'):
        weights.check_weights(inputs(Limits((3,)), whole), CONFIG)
    weights.check_weights(inputs(), CONFIG)
    before = TrainingData(toy.dataset().hash, split_seed=0, share=0.5, test=0.25, part='train')
    with pytest.raises(InputError, match=r'weight_grid=.*: the student was trained on [1-9]'):
        weights.check_weights(inputs(trainings=(before,)), CONFIG)


def test_a_table_without_a_choice_is_what_it_was():
    plain = dataclasses.replace(CONFIG, weight_grid=None)
    assert 'weight_grid' not in plain.decided()
    assert CONFIG.decided()['weight_grid'] == {'weights': GRID.weights, 'seeds': GRID.seeds}
    # As of the commit before there were grids.
    assert analysis_hash(ArmsConfig(arms=('kd', 'all'), seeds=(0, 1))) == 'eefaee295ed3312a'
    grids = (None, GRID, WeightGrid((1.0, 3.0), GRID.seeds), WeightGrid(GRID.weights, (8,)))
    hashes = {analysis_hash(dataclasses.replace(CONFIG, weight_grid=grid)) for grid in grids}
    assert len(hashes) == len(grids)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (((1.0,),), 'weight_grid=1: name two weights or more'),
        (((1.0, 3.0, 1.0),), 'weight_grid=1,3,1: .*each of them once'),
        (((0.0, 1.0),), 'weight_grid=0: weights of an alignment are above 0'),
        (((float('nan'), 1.0),), 'weight_grid=nan must be a finite number'),
        (((1.0, 3.0), ()), 'weight_seeds=: name at least one'),
        (((1.0, 3.0), (8, 8)), 'weight_seeds=8,8: .*each of them once'),
        (((1.0, 3.0), (-1,)), 'weight_seeds=-1 must not be negative'),
        (((0.3, 3.0),), 'weight_grid=0.3,3 lacks weight=1, which stays'),
        (((1.0, 3.0), (7, 0)), 'weight_seeds=0 is one of seeds=0, whose students'),
    ],
)
def test_wrong_grids(values, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, weight_grid=WeightGrid(*values))


def test_grids_that_nothing_could_read():
    bare = tuple(key for key, arm in ARMS.items() if arm.align is None)
    with pytest.raises(InputError, match=r'weight_grid=0.3,1,3 is of alignments, and kd'):
        dataclasses.replace(CONFIG, arms=bare)
    with pytest.raises(InputError, match='students of starts=partial learn the forms outside'):
        dataclasses.replace(CONFIG, starts=('nothing', 'partial'))
    with pytest.raises(InputError, match='weight_grid is about students, and no arms are run'):
        dataclasses.replace(CONFIG, arms=())


def test_the_own_weight_is_in_front():
    assert GRID.in_turn(3.0) == (3.0, 0.3, 1.0)
    assert np.isclose(GRID.in_turn(0.3), GRID.weights).all()
