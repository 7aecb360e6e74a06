import time

import numpy as np
import pytest

from cdjax.data import ArithmeticTask, batch_indices, split
from cdjax.errors import InputError


@pytest.fixture(scope='module')
def problems():
    return ArithmeticTask(high=9).problems()


def test_no_form_straddles(problems):
    parts = split(problems, share=0.25, test=0.2, seed=0)
    train, share, test = (set(problems.forms[rows]) for rows in parts)
    assert not train & test
    assert share < train
    assert train | test == set(problems.forms)
    assert len(test) == round(0.2 * len(train | test))
    assert len(share) == round(0.25 * len(train))
    # All problems of a form go where it goes.
    assert len(parts.train) + len(parts.test) == len(problems)
    assert np.isin(problems.forms, list(share)).sum() == len(parts.share)


def test_commuted_problems_stay_together(problems):
    """What the split is for: sorting the characters of the terms finds no equal across it."""
    parts = split(problems, seed=1)

    def terms(rows):
        signed = ('+' + prompt[:-1] for prompt in problems.prompts[rows])
        return {tuple(sorted(text[i : i + 2] for i in (0, 2, 4))) for text in signed}

    assert not terms(parts.train) & terms(parts.test)
    rows = np.random.default_rng(0).permutation(len(problems))
    assert terms(rows[:400]) & terms(rows[400:])


def test_a_split_is_a_function_of_the_seed(problems):
    first, again, other = (split(problems, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.test, other.test)
    task = ArithmeticTask(high=9)
    assert np.array_equal(task.split(0).test, first.test)


def test_the_whole_of_train_may_be_the_share(problems):
    parts = split(problems, share=1, seed=0)
    np.testing.assert_array_equal(parts.share, parts.train)


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        ({'test': 0}, 'test=0: expected'),
        ({'test': float('nan')}, 'test=nan: expected'),
        ({'share': float('nan')}, 'share=nan: expected'),
        ({'test': 1.0}, r'test=1\.0: expected'),
        ({'share': 0}, 'share=0: expected'),
        ({'share': 1.5}, r'share=1\.5: expected'),
        ({'share': 1e-6}, 'forms leave .* and 0 to share: take larger parts'),
        ({'test': 1e-6}, 'forms leave 0 to test'),
    ],
)
def test_bad_parts(problems, parts, message):
    with pytest.raises(InputError, match=message):
        split(problems, **parts, seed=0)


def test_a_bad_seed(problems):
    with pytest.raises(InputError, match='split_seed=-1 must not be negative'):
        split(problems, seed=-1)


@pytest.mark.parametrize('batch_size', [1, 3, 7, 10, 25, 64])
def test_every_epoch_sees_every_row_once(batch_size):
    indices = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])
    steps = 10 * 6
    drawn = [batch_indices(indices, batch_size, seed=4, step=step) for step in range(steps)]
    assert {len(batch) for batch in drawn} == {batch_size}
    epochs = np.concatenate(drawn).reshape(-1, 10)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(indices, (len(epochs), 1)))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_are_a_function_of_seed_and_step():
    indices = np.arange(1000)
    at_once = batch_indices(indices, 64, seed=0, step=31)
    for step in (500, 3, 90, 0):
        batch_indices(indices, 64, seed=0, step=step)
    np.testing.assert_array_equal(batch_indices(indices.copy(), 64, seed=0, step=31), at_once)
    assert not np.array_equal(batch_indices(indices, 64, seed=1, step=31), at_once)
    assert not np.array_equal(batch_indices(indices, 64, seed=0, step=32), at_once)


def test_a_batch_is_cheap():
    indices = np.arange(100_000)
    start = time.process_time()
    for step in range(390):
        batch_indices(indices, 256, seed=0, step=step)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(('indices', 'batch_size'), [([], 4), ([1, 2], 0)])
def test_no_batch(indices, batch_size):
    with pytest.raises(InputError, match='both must be at least 1'):
        batch_indices(np.array(indices, int), batch_size, seed=0, step=0)
