import numpy as np
import pytest
from scipy import stats

from cdjax.studies.by_problems import by_problems, problems_to
from cdjax.studies.costs import COSTS, summarise_costs


def row(arm, *accuracies):
    return {'arm': arm, 'seeds': list(range(len(accuracies))), 'accuracies': list(accuracies)}


def test_what_an_arm_saves_by_hand():
    found = by_problems(
        {
            80: [row('kd', 0.6, 0.7), row('all', 0.8, 0.9)],
            20: [row('kd', 0.1, 0.2), row('all', 0.2, 0.2)],
            40: [row('kd', 0.3, 0.4), row('all', 0.7, 0.6)],
        }
    )
    assert found['problems'] == [20, 40, 80]
    kd, everything = found['arms']
    assert kd['means'] == pytest.approx([0.15, 0.35, 0.65])
    assert everything['accuracies'] == [[0.2, 0.2], [0.7, 0.6], [0.8, 0.9]]
    # KD ends at .6 and .7: from .2 to .7 between 20 and 40, from .6 to .9 between 40 and 80.
    assert everything['to_reach'] == pytest.approx([20 * 2 ** (0.4 / 0.5), 40 * 2 ** (0.1 / 0.3)])
    assert kd['to_reach'] == pytest.approx([80, 80])
    first, second = found['saves']
    assert (first['problems'], first['kd_problems']) == (20, 40)
    assert (second['problems'], second['kd_problems']) == (40, 80)
    gaps = [0.7 - 0.6, 0.6 - 0.7]
    assert second['difference'] == pytest.approx(0)
    assert second['p'] == pytest.approx(stats.ttest_1samp(gaps, 0)[1])
    assert first['difference'] == pytest.approx(-0.15)


def test_problems_to_reach():
    assert problems_to([10, 20], [0.5, 0.6], 0.4) == 10
    assert problems_to([10, 40], [0.0, 1.0], 0.5) == pytest.approx(20)
    assert problems_to([10, 40], [0.0, 0.4], 0.5) is None


def test_costs_are_means_and_differences_of_what_was_measured():
    of = dict.fromkeys(COSTS) | {'confidence': 0.5, 'brier': 0.5}
    run = lambda arm, seed, **told: {'arm': arm, 'seed': seed, **of, **told}
    kd, other = summarise_costs(
        [
            run('kd', 0, ece=0.1, beyond=0.2),
            run('kd', 1, ece=0.2, beyond=0.4),
            run('all', 0, ece=0.3, beyond=0.5),
            run('all', 1, ece=0.1, beyond=0.5),
        ]
    )
    assert set(kd) == {'arm', 'seeds', 'brier', 'confidence', 'ece', 'beyond'}
    assert kd['ece'] == {'mean': pytest.approx(0.15), 'values': [0.1, 0.2]}
    assert other['beyond']['gain'] == pytest.approx(0.2)
    assert other['ece']['gain'] == pytest.approx(0.05)
    half = stats.t.ppf(0.975, 1) * np.std([0.2, -0.1], ddof=1) / np.sqrt(2)
    assert other['ece']['gain_interval'] == pytest.approx((0.05 - half, 0.05 + half))
    assert other['ece']['pairs'] == 2
