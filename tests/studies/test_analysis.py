"""What a table decides beforehand, and tables taken together."""

import dataclasses
import json

import numpy as np
import pytest

from cdjax.errors import InputError
from cdjax.evaluation.statistics import cluster_interval, few_clusters_interval, nested_mean
from cdjax.report.terminal_students import pooled_lines
from cdjax.run.folder import CONFIG, VERSION
from cdjax.studies.analysis import (
    analysis_hash,
    check_together,
    pooled_table,
    primary_comparison,
)
from cdjax.studies.arms import ArmsConfig

CONFIG_OF_TABLE = ArmsConfig(
    arms=('kd', 'circuits', 'random'), seeds=(0, 1, 2), primary=('circuits', 'random')
)
UNSEEN = {'kd': (0.5, 0.6, 0.4), 'circuits': (0.7, 0.7, 0.5), 'random': (0.6, 0.5, 0.5)}
RUNS = [
    {'arm': arm, 'seed': seed, 'unseen': value}
    for arm, values in UNSEEN.items()
    for seed, value in enumerate(values)
]


def test_the_primary_comparison_is_paired_by_seed():
    found = primary_comparison(RUNS, CONFIG_OF_TABLE)
    assert (found['arm'], found['against'], found['seeds']) == ('circuits', 'random', [0, 1, 2])
    assert found['difference'] == pytest.approx(0.1)
    # Differences .1, .2 and 0: sd .1, t(.975, 2) = 4.3027; t = .1 / (.1 / sqrt 3) = 1.732.
    half = 4.3027 * 0.1 / np.sqrt(3)
    assert found['interval'] == pytest.approx((0.1 - half, 0.1 + half), rel=1e-4)
    assert found['p'] == pytest.approx(0.2254, abs=1e-3)
    assert found['p_equivalent'] > 0.8
    assert primary_comparison(RUNS, dataclasses.replace(CONFIG_OF_TABLE, primary=None)) is None


def test_the_hash_is_of_what_is_decided_and_not_of_what_is_looked_at_afterwards():
    changed = lambda **changes: analysis_hash(dataclasses.replace(CONFIG_OF_TABLE, **changes))
    assert changed(mechanism='atp') == changed()
    hashes = [changed(), changed(seeds=(0, 1)), changed(primary=('random', 'kd'))]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize('primary', [('circuits',), ('circuits', 'wrong'), ('kd', 'kd')])
def test_a_comparison_of_arms_that_are_not_run(primary):
    with pytest.raises(InputError, match=r'primary=.*: name two of the arms that are run, kd'):
        dataclasses.replace(CONFIG_OF_TABLE, primary=primary)


def test_clusters_and_values_within_them_are_resampled():
    rng = np.random.default_rng(0)
    apart = [rng.normal(mean, 0.01, 50) for mean in (-1, 0, 1)]
    low, high = cluster_interval(apart)
    # Three means, -1, 0 and 1: resampled as they are, the students of one table say nothing.
    assert low < -0.6
    assert high > 0.6
    alike = [rng.normal(0, 1, 4) for _ in range(20)]
    low, high = cluster_interval(alike)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(80), rel=0.5)
    assert cluster_interval(apart[:1]) is None


def test_clusters_are_resampled_level_by_level():
    rng = np.random.default_rng(0)
    # Two discoveries a teacher that differ by 2, and teachers that are alike.
    nested = [[rng.normal(mean, 0.01, 20) for mean in (-1, 1)] for _ in range(3)]
    low, high = cluster_interval(nested)
    # Of six discoveries the mean has a deviation of 1 / sqrt 6.
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(6), rel=0.25)
    assert nested_mean(nested) == pytest.approx(np.mean(nested))
    # Where a teacher has one discovery only teachers and students vary.
    one = [[group[0]] for group in nested]
    assert cluster_interval(one)[1] < 0
    assert nested_mean([[[1.0], [3.0]], [[4.0, 8.0]]]) == pytest.approx((2 + 6) / 2)
    # The first teacher's discoveries have other numbers of students.
    ragged = [[[1.0, 2.0, 3.0], [1.0]], [[4.0]]]
    assert nested_mean(ragged) == pytest.approx(((2 + 1) / 2 + 4) / 2)
    low, high = cluster_interval(ragged)
    assert 1 < low < 2 < high == 4


def test_few_clusters_are_told_by_their_means():
    # By hand: mean 2, standard error sqrt(1/3), t(2, .975) = 4.3027.
    half = 4.3027 / np.sqrt(3)
    assert few_clusters_interval([1, 2, 3]) == pytest.approx((2 - half, 2 + half), rel=1e-4)
    low, high = cluster_interval([[1.0], [2.0], [3.0]])
    assert high - low < half, 'the bootstrap is less than half as wide'
    assert few_clusters_interval(range(5)) is not None
    assert few_clusters_interval(range(6)) is few_clusters_interval([1]) is None


def table(folder, gain, teacher='t', seed=0, planted=False, **inputs):
    (folder / 'results' / 'arms').mkdir(parents=True)
    config = {
        'arms': {'distillation': 1, 'circuits': 'planted' if planted else 'found'},
        'inputs': {'data': 'x', 'teacher_weights': teacher, **inputs},
        'discovery': {'seed': seed},
    }
    (folder / CONFIG).write_text(json.dumps({'version': VERSION, **config}))
    for seed in (0, 1):
        for arm, value in (
            ('kd', 0.5),
            ('circuits', 0.5 + gain + 0.02 * seed),
            ('random', 0.6 + 0.02 * seed),
        ):
            path = folder / 'results' / 'arms' / f'nothing-{arm}-{seed}.json'
            run = {'version': VERSION, 'arm': arm, 'seed': seed, 'unseen': value}
            path.write_text(json.dumps(run))
    return folder


def test_tables_of_other_circuits_are_taken_together(tmp_path):
    gains = (0.1, 0.2, 0.3)
    folders = [table(tmp_path / str(i), gain, seed=i) for i, gain in enumerate(gains)]
    row, other = pooled_table(folders, 'nothing')
    assert (row['arm'], row['tables'], row['students']) == ('circuits', 3, 6)
    assert (row['against'], row['teachers'], row['clusters']) == ('kd', 1, 3)
    assert (other['arm'], other['primary'], other['gain']) == ('random', False, pytest.approx(0.11))
    assert row['gain'] == pytest.approx(0.21)
    assert row['by_table'] == pytest.approx([0.11, 0.21, 0.31])
    low, high = row['interval']
    assert 0.09 < low < 0.16
    assert 0.26 < high < 0.33
    half = 4.3027 * 0.1 / np.sqrt(3)
    assert row['t_interval'] == pytest.approx((0.21 - half, 0.21 + half), rel=1e-4)
    text = pooled_lines([row, other])
    assert '1 teacher and 3 discoveries' in text
    assert 'KD + CKA of class circuits                +21.0 [+1' in text
    assert '[−3.8, +45.8]' in text
    assert 'Primary' not in text
    other = table(tmp_path / 'other', 0.1, share=0.9)
    with pytest.raises(InputError, match=r'pool=.*other has other share than'):
        pooled_table([folders[0], other], 'nothing')
    with pytest.raises(InputError, match='holds no students from partial'):
        pooled_table(folders, 'partial')


@pytest.mark.parametrize(
    ('changed', 'match'),
    [
        ({'inputs': {'split_seed': 7}}, 'other split_seed than'),
        ({'inputs': {'split_seed': 0, 'student': 's'}}, 'other student than'),
        ({'discovery': {'seed': 1, 'density': 0.2}}, 'other discovery than'),
        ({'arms': {'starts': ['nothing']}}, 'holds no students from partial, as'),
    ],
)
def test_what_differs_in_more_than_circuits_is_not_taken_together(tmp_path, changed, match):
    arms = {'starts': ['nothing', 'partial']}
    settings = {'arms': arms, 'inputs': {'split_seed': 0}, 'discovery': {'seed': 0}}
    for name, own in (
        ('a', settings),
        ('b', {**settings, 'discovery': {'seed': 1}}),
        ('c', {**settings, 'discovery': {'seed': 2}} | changed),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).write_text(json.dumps({'version': VERSION, **own}))
    check_together([tmp_path / 'a', tmp_path / 'b'])
    with pytest.raises(InputError, match=match):
        check_together([tmp_path / 'a', tmp_path / 'b', tmp_path / 'c'])


def test_the_primary_comparison_is_taken_together_over_teachers_and_their_discoveries(tmp_path):
    # Two teachers, of which one has two discoveries: .1 and .3, and .6.
    gains = {('a', 0): 0.1, ('a', 1): 0.3, ('b', 0): 0.6}
    folders = [
        table(tmp_path / f'{teacher}{seed}', gain, teacher, seed)
        for (teacher, seed), gain in gains.items()
    ]
    primary, circuits, random = pooled_table(folders, 'nothing', ('circuits', 'random'))
    assert (primary['arm'], primary['against'], primary['primary']) == ('circuits', 'random', True)
    assert (primary['teachers'], primary['tables'], primary['clusters']) == (2, 3, 2)
    assert primary['by_table'] == pytest.approx([0, 0.2, 0.5])
    assert primary['gain'] == pytest.approx((0.1 + 0.5) / 2)
    # Two teachers, .1 and .5: t(.975, 1) = 12.706 standard errors of .2.
    half = 12.7062 * 0.2
    assert primary['t_interval'] == pytest.approx((0.3 - half, 0.3 + half), rel=1e-4)
    # Four of one teacher's draws give the lowest, 0, less often than 1 in 40, and then .05 comes.
    assert primary['interval'] == pytest.approx((0.05, 0.5))
    assert circuits['gain'] - random['gain'] == pytest.approx(primary['gain'])
    text = pooled_lines([primary, circuits, random])
    assert '2 teachers and 3 discoveries' in text
    assert '  class circuits minus' in text
    assert '+30.0 [+5.0, +50.0]' in text
    assert max(map(len, text.splitlines())) <= 100


def test_students_are_not_counted_twice(tmp_path):
    first, again = table(tmp_path / 'a', 0.1), table(tmp_path / 'b', 0.2)
    with pytest.raises(InputError, match=r'pool=.*b has the teacher and the circuits of .*a: name'):
        check_together([first, again])
    # What was planted is the same, whatever the seed of a search that is not made.
    planted = [table(tmp_path / f'p{seed}', 0.1, seed=seed, planted=True) for seed in (0, 1)]
    with pytest.raises(InputError, match='has the teacher and the circuits of'):
        pooled_table(planted, 'nothing')
