import numpy as np
import pytest

from cdjax.data.encoding import NO_TOKEN
from cdjax.evaluation.calibration import calibration


def test_by_hand():
    # Probabilities .8/.2 (right), .6/.4 (wrong), .9/.1 (wrong), 1 − 1e-9 (right).
    p = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [1e-9, 1.0]])
    found = calibration(np.log(p) + 3, np.array([0, 0, 0, 1]), bins=2)
    assert found['confidence'] == pytest.approx((0.8 + 0.6 + 0.9 + 1) / 4)
    # All four lie in the upper bin: two of four are right.
    assert found['ece'] == pytest.approx(abs(2 - 3.3) / 4)
    brier = [0.2**2 * 2, 0.6**2 * 2, 0.9**2 * 2, 0]
    assert found['brier'] == pytest.approx(np.mean(brier), abs=1e-6)


def test_bins_are_weighed_by_their_problems():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45]])
    found = calibration(np.log(p), np.array([0, 1, 0]), bins=10)
    assert found['ece'] == pytest.approx((abs(1 - 1.8) + abs(1 - 0.55)) / 3)


def test_tokens_of_several_are_taken_as_if_each_were_an_answer():
    rng = np.random.default_rng(1)
    logits, answers = rng.normal(size=(6, 2, 5)), rng.integers(5, size=(6, 2))
    answers[::2, 1] = NO_TOKEN
    tokens = [(n, a) for n in range(6) for a in range(1 + n % 2)]
    one_by_one = calibration(*(np.array([x[at] for at in tokens]) for x in (logits, answers)))
    assert calibration(logits, answers) == one_by_one


def test_answers_that_are_drawn_as_a_model_says_are_calibrated():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    assert calibration(logits, answers)['ece'] < 0.02
    assert calibration(3 * logits, answers)['ece'] > 0.2, 'one that is too sure is not'
