import numpy as np
import pytest
from scipy import stats

from cdjax.studies.dissociation import dissociation


def run(arm, seed, *by_class):
    return {'arm': arm, 'seed': seed, 'by_class': [*by_class, 0.9]}


def test_by_hand():
    runs = [run('kd', seed, 0.5, 0.6) for seed in (0, 1)]
    runs += [run('first_circuit', 0, 0.8, 0.6), run('first_circuit', 1, 0.7, 0.7)]
    runs += [run('second_circuit', 0, 0.5, 0.9), run('second_circuit', 1, 0.6, 0.7)]
    found = dissociation(runs)
    gaps = [(0.8 - 0.6) - (0.5 - 0.9), (0.7 - 0.7) - (0.6 - 0.7)]
    assert found['interaction'] == pytest.approx(np.mean(gaps))
    assert found['p'] == pytest.approx(stats.ttest_1samp(gaps, 0)[1])
    np.testing.assert_allclose(found['gains'], [[0.25, 0.05], [0.05, 0.2]])
    assert found['seeds'] == [0, 1]
    assert dissociation(runs[2:])['gains'] is None
    assert dissociation(runs[:4]) is None


def test_what_helps_all_alike_or_one_class_by_either_circuit_dissociates_nothing():
    alike = [run('first_circuit', 0, 0.8, 0.9), run('second_circuit', 0, 0.7, 0.8)]
    assert dissociation(alike)['interaction'] == pytest.approx(0)
    one = [run('first_circuit', 0, 0.9, 0.5), run('second_circuit', 0, 0.9, 0.5)]
    assert dissociation(one)['interaction'] == pytest.approx(0)
    assert dissociation(one)['interval'] is None
