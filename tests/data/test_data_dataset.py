import dataclasses

import numpy as np
import pytest

from cdjax.data import ArithmeticTask, build_arithmetic_tokenizer
from cdjax.data.dataset import counterfactual_rows


@pytest.fixture(scope='module')
def dataset():
    return ArithmeticTask(high=6).encode(build_arithmetic_tokenizer(18))


@pytest.mark.parametrize(
    'rows', [slice(3, 9), [5, 2, 2], np.arange(400) % 3 == 0], ids=['slice', 'list', 'mask']
)
def test_rows(dataset, rows):
    dataset = dataset[:400]
    part = dataset[rows]
    wanted = np.arange(400)[rows]
    assert len(part) == len(wanted)
    for field in dataclasses.fields(dataset):
        whole, chosen = getattr(dataset, field.name), getattr(part, field.name)
        if isinstance(whole, np.ndarray):
            np.testing.assert_array_equal(chosen, whole[wanted])
    for name, values in dataset.labels.items():
        np.testing.assert_array_equal(part.labels[name], values[wanted])
    assert part.label_names == dataset.label_names


COLUMNS = (
    *('tokens', 'lengths', 'answers', 'forms', 'prompts'),
    *('counterfactual_tokens', 'counterfactual_answers'),
)


@pytest.mark.parametrize('name', COLUMNS)
def test_hash_sees_every_entry(dataset, name):
    array = getattr(dataset, name).copy()
    array.flat[-1] += '5' if name == 'prompts' else 1
    assert dataclasses.replace(dataset, **{name: array}).hash != dataset.hash


def test_hash_sees_labels_shapes_and_nothing_else(dataset):
    assert dataset[:].hash == dataset.hash != dataset[:-1].hash
    for name in dataset.labels:
        values = dataset.labels[name].copy()
        values[-1] += 1
        other = dataclasses.replace(dataset, labels=dataset.labels | {name: values})
        assert other.hash != dataset.hash
        names = dataset.label_names | {name: ('another', *dataset.label_names[name][1:])}
        assert dataclasses.replace(dataset, label_names=names).hash != dataset.hash
    flat = dataclasses.replace(dataset, tokens=dataset.tokens.reshape(1, -1))
    assert flat.hash != dataset.hash
    assert dataclasses.replace(dataset, left_out={'a reason': 1}).hash == dataset.hash
    backwards = dict(reversed(dataset.labels.items()))
    assert dataclasses.replace(dataset, labels=backwards).hash == dataset.hash
    assert len(dataset.hash) == 64
    everything = {field.name for field in dataclasses.fields(dataset)}
    assert everything == {*COLUMNS, 'labels', 'label_names', 'left_out'}, 'one that no test covers'


def test_counterfactuals_are_drawn_uniformly_from_all_that_fit():
    rng = np.random.default_rng(0)
    lengths, operators, answers = rng.integers(0, [[2], [2], [4]], (3, 24))
    # One operator whose answers are all alike: its problems look beyond it.
    operators[:2], answers[:2], lengths[:2] = 9, 1, 0
    fits = (lengths[:, None] == lengths) & (answers[:, None] != answers)
    same = fits & (operators[:, None] == operators)
    candidates = np.where(same.any(1, keepdims=True), same, fits)
    assert not same[:2].any()
    counts = np.zeros((24, 24))
    draws = 3000
    for seed in range(draws):
        rows = counterfactual_rows(lengths, operators, answers, seed=seed)
        counts[np.arange(24), rows] += 1
    expected = candidates / candidates.sum(1, keepdims=True)
    assert (counts[~candidates] == 0).all()
    sigma = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) <= 5 * sigma + 1e-9).all()


def test_no_counterfactual():
    rows = counterfactual_rows(np.array([5, 5, 6]), np.zeros(3, int), np.array([1, 1, 2]), seed=0)
    assert rows.tolist() == [-1, -1, -1]
