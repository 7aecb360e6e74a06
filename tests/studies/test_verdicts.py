import numpy as np
import pytest
from scipy import stats

from cdjax.report.verdicts import verdict_table
from cdjax.studies.settle.verdicts import (
    REFUTED,
    SUPPORTED,
    UNDERPOWERED,
    Hypothesis,
    judge,
    judge_groups,
    judge_pairs,
)

AT_LEAST = Hypothesis('a', 'at least .5', 0.5)
AT_MOST = Hypothesis('b', 'at most .5', 0.5, above=False)


@pytest.mark.parametrize(
    ('hypothesis', 'interval', 'verdict'),
    [
        (AT_LEAST, (0.5, 0.9), SUPPORTED),
        (AT_LEAST, (0.49, 0.9), UNDERPOWERED),
        (AT_LEAST, (0.1, 0.49), REFUTED),
        (AT_MOST, (0.1, 0.5), SUPPORTED),
        (AT_MOST, (0.1, 0.51), UNDERPOWERED),
        (AT_MOST, (0.51, 0.6), REFUTED),
    ],
)
def test_a_verdict_is_that_of_the_whole_interval(hypothesis, interval, verdict):
    found = judge(hypothesis, 0.5, interval)
    assert found['verdict'] == verdict
    assert found['interval'] == list(interval)


def test_one_measurement_supports_nothing_and_may_refute():
    assert judge(AT_LEAST, 0.9, None)['verdict'] == UNDERPOWERED
    assert judge(AT_LEAST, 0.1, None)['verdict'] == REFUTED


def test_seeds_of_one_teacher_count_once():
    groups = [[0.6, 0.8], [0.7, 0.9], [0.8, 0.8]]
    found = judge_groups(AT_LEAST, groups)
    means = [0.7, 0.8, 0.8]
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / np.sqrt(3)
    assert found['mean'] == pytest.approx(np.mean(means))
    np.testing.assert_allclose(found['interval'], [np.mean(means) - half, np.mean(means) + half])
    assert judge_groups(AT_LEAST, groups[:1])['interval'] is None


def test_what_was_not_measured_tells_nothing():
    found = judge_groups(AT_LEAST, [[0.9, None], [0.9, 0.9]])
    assert (found['mean'], found['verdict']) == (None, UNDERPOWERED)


def test_pairs_vary_over_seeds_and_over_problems():
    rng = np.random.default_rng(0)
    alike = rng.normal(0.5, 1.0, 200)
    # The same problems with every seed: more seeds of them are no more data.
    one, many = judge_pairs(AT_LEAST, alike[None]), judge_pairs(AT_LEAST, np.tile(alike, (9, 1)))
    width = lambda found: found['interval'][1] - found['interval'][0]
    assert width(many) == pytest.approx(width(one), rel=1e-6)
    assert width(one) == pytest.approx(2 * 1.96 * alike.std() / np.sqrt(200), rel=0.1)
    # Seeds that differ and problems that do not: Student's, over the seeds.
    seeds = np.array([0.4, 0.7, 0.9])
    found = judge_pairs(AT_LEAST, np.tile(seeds[:, None], (1, 200)))
    half = stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found['interval'], [seeds.mean() - half, seeds.mean() + half])


def test_the_interval_of_pairs_holds_the_mean_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), []
    for _ in range(300):
        seeds, problems = rng.normal(0, 0.1, (5, 1)), rng.normal(0, 1.0, 150)
        noise = rng.normal(0, 0.5, (5, 150))
        low, high = judge_pairs(AT_LEAST, 0.3 + seeds + problems + noise)['interval']
        inside.append(low <= 0.3 <= high)
    assert 0.93 <= np.mean(inside) <= 1


def test_the_table_says_what_was_claimed_and_found():
    text = verdict_table('Gates', [judge(AT_LEAST, 0.75, (0.5, 0.9)), judge(AT_MOST, 0.75, None)])
    title, _, first, second = text.splitlines()
    assert title == 'Gates'
    assert first.split() == [
        'at',
        'least',
        '.5',
        '≥',
        '0.50',
        '0.75',
        '0.50',
        'to',
        '0.90',
        SUPPORTED,
    ]
    assert second.split() == ['at', 'most', '.5', '≤', '0.50', '0.75', REFUTED]
