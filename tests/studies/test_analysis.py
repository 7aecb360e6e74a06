"""What a table decides beforehand, and tables taken together."""

import dataclasses
import json

import numpy as np
import pytest

from cdjax.errors import InputError
from cdjax.evaluation.statistics import cluster_interval
from cdjax.report.terminal_students import pooled_lines
from cdjax.run.folder import CONFIG, VERSION
from cdjax.studies.analysis import analysis_hash, pooled_table, primary_comparison
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
    alike = [rng.normal(0, 1, 4) for _ in range(40)]
    low, high = cluster_interval(alike)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(160), rel=0.5)
    assert cluster_interval(apart[:1]) is None


def table(folder, gain, **inputs):
    (folder / 'results' / 'arms').mkdir(parents=True)
    config = {'arms': {'distillation': 1}, 'inputs': {'data': 'x', **inputs}}
    (folder / CONFIG).write_text(json.dumps({'version': VERSION, **config}))
    for seed in (0, 1):
        for arm, value in (('kd', 0.5), ('circuits', 0.5 + gain + 0.02 * seed)):
            path = folder / 'results' / 'arms' / f'nothing-{arm}-{seed}.json'
            run = {'version': VERSION, 'arm': arm, 'seed': seed, 'unseen': value}
            path.write_text(json.dumps(run))
    return folder


def test_tables_of_other_circuits_are_taken_together(tmp_path):
    folders = [table(tmp_path / str(i), gain) for i, gain in enumerate((0.1, 0.2, 0.3))]
    (row,) = pooled_table(folders, 'nothing')
    assert (row['arm'], row['tables'], row['students']) == ('circuits', 3, 6)
    assert row['gain'] == pytest.approx(0.21)
    assert row['by_table'] == pytest.approx([0.11, 0.21, 0.31])
    low, high = row['interval']
    assert 0.09 < low < 0.16
    assert 0.26 < high < 0.33
    assert '3 tables, 6 students' in pooled_lines([row])
    other = table(tmp_path / 'other', 0.1, share=0.9)
    with pytest.raises(InputError, match=r'pool=.*other has other share than'):
        pooled_table([folders[0], other], 'nothing')
    with pytest.raises(InputError, match='holds no students from partial'):
        pooled_table(folders, 'partial')
