import numpy as np
import pytest
from synthetic_results import make_start, make_study, point

from cdjax.report.comparisons import (
    LESS,
    MORE,
    SAME,
    UNKNOWN,
    Difference,
    arm_difference,
    at_circuit_size,
    difference,
    overlap_difference,
)


def test_verdicts():
    assert Difference(0.1, (0.02, 0.2)).verdict == MORE
    assert Difference(-0.1, (-0.2, -0.02)).verdict == LESS
    assert Difference(0.1, (-0.02, 0.2)).verdict == SAME
    assert Difference(0.1, (0.0, 0.2)).verdict == SAME
    assert Difference(0.1, None).verdict == UNKNOWN


def test_interval_of_a_difference_is_that_of_independent_proportions():
    a, b, n = 0.6, 0.51, 400
    pa, pb = point(a, 0, n), point(b, 0, n)
    found = difference(a, pa['only_interval'], b, pb['only_interval'])
    half = 1.96 * np.sqrt(a * (1 - a) / n + b * (1 - b) / n)
    assert found.value == pytest.approx(0.09)
    assert found.interval == pytest.approx((0.09 - half, 0.09 + half))
    # Each interval holds the other's end, and still the difference excludes zero.
    assert pa['only_interval'][0] < pb['only_interval'][1]
    assert found.verdict == MORE


def test_arms_are_paired_by_seed():
    start = make_start({'circuits': 0.2}, spread=0.01)
    of = {(run['arm'], run['seed']): run['unseen'] for run in start['runs']}
    gaps = np.array([of['circuits', s] - of['kd', s] for s in (0, 1, 2)])
    found = arm_difference(start['runs'], 'circuits', 'kd')
    half = 4.302653 * gaps.std(ddof=1) / np.sqrt(3)  # t of two degrees of freedom, 97.5 %
    assert found.value == pytest.approx(gaps.mean())
    assert found.interval == pytest.approx((gaps.mean() - half, gaps.mean() + half), rel=1e-5)
    # Seeds are 20 points apart: unpaired, nothing could be told from two or three of them.
    assert found.verdict == MORE


def test_a_single_seed_has_no_interval_and_a_missing_arm_no_difference():
    start = make_start({}, seeds=(4,), arms=('kd', 'all'))
    assert arm_difference(start['runs'], 'all', 'kd').verdict == UNKNOWN
    assert arm_difference(start['runs'], 'circuits', 'kd') is None
    other = make_start({}, seeds=(5,), arms=('circuits',))
    assert arm_difference(start['runs'] + other['runs'], 'circuits', 'kd') is None


def test_overlap_of_random_masks_is_told_apart_as_often_as_it_should():
    rng = np.random.default_rng(0)
    n, neurons, verdicts = 60, 400, []
    for _ in range(300):
        a, b = (set(rng.permutation(neurons)[:n]) for _ in range(2))
        iou = len(a & b) / len(a | b)
        share = n / neurons
        study = {
            'overlap': [[1.0, iou], [iou, 1.0]],
            'living': {'neurons': neurons},
            'chance_overlap': share / (2 - share),
        }
        verdicts.append(overlap_difference(study).verdict)
    assert 0.88 < verdicts.count(SAME) / len(verdicts) < 0.99
    study['overlap'] = [[1.0, 0.4], [0.4, 1.0]]
    assert overlap_difference(study).verdict == MORE
    study['overlap'] = [[1.0, 0.0], [0.0, 1.0]]
    assert overlap_difference(study).verdict == LESS


def test_nearest_size():
    study = make_study()
    assert study['shares'][at_circuit_size(study)] == 0.15
    assert at_circuit_size({'sizes': [10, 50, 100], 'size': 76}) == 2
