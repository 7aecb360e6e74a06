import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from cdjax.evaluation.classes import (
    agreement,
    answer_information,
    chance_information,
    class_table,
    constant_answer_accuracy,
)


def test_agreement_of_equal_and_of_independent_classes():
    labels = np.repeat(np.arange(4), 100)
    renamed = np.array([2, 0, 3, 1])[labels]
    same = agreement(renamed, labels, permutations=50)
    assert same.nmi == pytest.approx(1)
    assert same.ari == pytest.approx(1)
    assert same.chance_nmi < 0.05
    assert 0 < same.chance_ari < 0.05
    crossed = agreement(np.tile(np.arange(4), 100), labels, permutations=50)
    assert crossed.nmi == pytest.approx(0, abs=1e-6)
    assert crossed.ari == pytest.approx(0, abs=0.01)
    # Independent in expectation, not in the sample: what the baseline is for.
    drawn = agreement(np.random.default_rng(5).permutation(renamed), labels, permutations=200)
    assert 0 < drawn.nmi < 3 * drawn.chance_nmi


@pytest.mark.parametrize(('used', 'labels'), [(3, 3), (5, 2), (1, 4), (1, 1)])
def test_agreement_is_that_of_another_package(used, labels):
    """With names that leave some out, and where one class holds everything."""
    rng = np.random.default_rng(used)
    truth = 2 * rng.integers(labels, size=60)
    classes = np.where(rng.random(60) < 0.5, truth % (2 * used), 3 * rng.integers(used, size=60))
    found = agreement(classes, truth, permutations=40, seed=1)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(truth, classes), abs=1e-12)
    assert found.ari == pytest.approx(adjusted_rand_score(truth, classes), abs=1e-12)
    rng = np.random.default_rng(1)
    drawn = [rng.permutation(classes) for _ in range(40)]
    for ours, theirs in (
        (found.chance_nmi, normalized_mutual_info_score),
        (found.chance_ari, adjusted_rand_score),
    ):
        chance = np.quantile([theirs(truth, permuted) for permuted in drawn], 0.95)
        assert ours == pytest.approx(chance, abs=1e-12)


def test_table_by_hand():
    table = class_table(np.array([0, 0, 2, 0]), np.array([1, 1, 0, 2]), 4)
    np.testing.assert_array_equal(table, [[0, 2, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]])


def test_information_by_hand():
    answers = np.array([10, 11, 12, 13] * 5)
    assert answer_information(answers % 2, answers) == pytest.approx(1)
    assert answer_information(answers - 10, answers) == pytest.approx(2)
    assert answer_information(np.repeat(np.arange(5), 4), answers) == pytest.approx(0, abs=1e-9)
    # p(class) = (1/4, 3/4) and the class follows from the answer: I = H(class).
    expected = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert answer_information((answers > 10).astype(int), answers) == pytest.approx(expected)


def test_constant_answers_by_hand():
    classes = np.array([0, 0, 0, 1, 1, 3])
    answers = np.array([7, 7, 9, 9, 8, 100])
    # Class 0 answers 7 (2 of 3), class 1 either (1 of 2), class 3 100 (1 of 1).
    assert constant_answer_accuracy(classes, answers) == 4 / 6
    assert constant_answer_accuracy(np.zeros(6, int), answers) == 2 / 6


def test_chance_information_is_what_random_classes_seem_to_know():
    rng = np.random.default_rng(0)
    answers, classes = rng.integers(10, size=2000), rng.integers(4, size=2000)
    expected = (10 - 1) * (4 - 1) / (2 * 2000 * np.log(2))  # the bias of the plug-in estimate
    assert chance_information(classes, answers) == pytest.approx(expected, rel=0.2)
    assert chance_information(np.zeros(2000, int), answers) == pytest.approx(0, abs=1e-9)
