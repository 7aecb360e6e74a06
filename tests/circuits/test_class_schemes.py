"""Schemes that sort problems: balanced where they say so, and knowing no more than they say."""

import dataclasses

import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.classes import CLASSES, Sorting, cut_by_value
from cdjax.evaluation.classes import answer_information


def sort(key, **sorting):
    return CLASSES[key].assign(Sorting(toy.dataset(), **{'num_classes': 3, **sorting}))


def test_labels_cut_by_value_are_balanced_and_in_order():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(12), 10))
    classes = cut_by_value(labels, 4)
    assert classes.dtype == np.int32
    np.testing.assert_array_equal(classes, labels // 3)


@pytest.mark.parametrize('num_classes', [2, 4, 8])
def test_uneven_labels_are_cut_within_one_of_them_of_even(num_classes):
    # Sums of two dice: the middle answers are the commonest.
    labels = np.add.outer(np.arange(20), np.arange(20)).ravel()
    classes = cut_by_value(labels, num_classes)
    counts = np.bincount(classes, minlength=num_classes)
    assert np.abs(counts - len(labels) / num_classes).max() <= np.bincount(labels).max()
    order = np.argsort(labels, kind='stable')
    assert (np.diff(classes[order]) >= 0).all()
    for label in np.unique(labels):
        assert len(set(classes[labels == label])) == 1, 'a label is in one class'


def test_labels_that_nothing_has_and_more_classes_than_labels():
    np.testing.assert_array_equal(cut_by_value(np.array([0, 0, 5, 5]), 2), [0, 0, 1, 1])
    classes = cut_by_value(np.array([0, 1]), 8)
    assert len(set(classes)) == 2
    assert classes.max() < 8


def test_schemes_of_known_structure():
    data = toy.dataset()
    assert not sort('one').any()
    np.testing.assert_array_equal(sort('operators'), [('-' in p) for p in data.prompts])
    cut = sort('answer_cut')
    order = np.argsort(data.labels['answer'], kind='stable')
    assert (np.diff(cut[order]) >= 0).all()
    assert set(cut) == {0, 1, 2}
    learned = np.arange(len(data)) % 3
    np.testing.assert_array_equal(sort('learned', learned=learned), learned)


def test_random_classes_are_drawn_by_seed():
    first, again, other = sort('random'), sort('random'), sort('random', seed=1)
    np.testing.assert_array_equal(first, again)
    assert 0.5 < (first != other).mean() < 0.8, 'two of three differ'
    assert set(first) == {0, 1, 2}


def test_problems_without_operators_have_no_classes_of_them():
    plain = dataclasses.replace(toy.dataset(), labels={'answer': toy.dataset().labels['answer']})
    assert CLASSES['operators'].assign(Sorting(plain, 2)) is None
    sums = toy.dataset()[toy.dataset().labels['operators'] == 0]
    assert CLASSES['operators'].assign(Sorting(sums, 2)) is None, 'one mask by another name'


def test_answer_matched_classes_tell_as_much_of_the_answer_and_nothing_else():
    data = toy.dataset()
    learned = data.labels['operators'].astype(np.int32)
    matched = sort('answer_matched', learned=learned)
    assert (matched != learned).any()
    bits = [answer_information(classes, data.answers) for classes in (learned, matched)]
    assert bits[0] == pytest.approx(bits[1])
    # Within an answer, the class says nothing of the operator any more.
    for answer in np.unique(data.answers):
        rows = data.answers == answer
        np.testing.assert_array_equal(np.sort(matched[rows]), np.sort(learned[rows]))
    both = [r for a in np.unique(data.answers) for r in [data.answers == a] if 1 < learned[r].sum()]
    agree = np.mean([(matched[r] == learned[r]).mean() for r in both])
    assert agree < 0.9
    np.testing.assert_array_equal(learned, data.labels['operators'], 'the learned ones stay')
