import json

import numpy as np
import pytest
import toy_study as toy

from cdjax.data import split
from cdjax.data.training_data import (
    FILE,
    PARTS,
    TrainingData,
    count_seen,
    read_training_data,
    training_data_file,
)
from cdjax.errors import InputError

SPLIT = {'split_seed': 3, 'share': 0.5, 'test': 0.25}


def training(part, **changes):
    return TrainingData(**{'data': toy.dataset().hash, 'part': part, **SPLIT, **changes})


def test_what_is_written_is_read(tmp_path):
    trainings = tuple(training(part) for part in PARTS)
    ((name, text),) = training_data_file(trainings).items()
    (tmp_path / name).write_text(text)
    assert read_training_data(tmp_path) == trainings


def test_a_checkpoint_of_someone_else_says_nothing(tmp_path):
    assert read_training_data(tmp_path) == ()
    assert count_seen((), toy.dataset(), np.arange(5)) == (0, False)


def test_the_parts_of_a_split():
    data = toy.dataset()
    parts = split(data, share=0.5, test=0.25, seed=3)
    rows = {part: training(part).rows(data) for part in PARTS}
    np.testing.assert_array_equal(rows['train'], parts.train)
    np.testing.assert_array_equal(rows['share'], parts.share)
    outside = sorted(set(parts.train) - set(parts.share))
    np.testing.assert_array_equal(rows['train without share'], outside)


def test_problems_seen_by_any_training_are_counted_once():
    data = toy.dataset()
    parts = split(data, share=0.5, test=0.25, seed=3)
    other = split(data, share=0.5, test=0.25, seed=4)
    both = (training('share'), training('share', split_seed=4))
    assert count_seen(both[:1], data, parts.test) == (0, False)
    seen = set(parts.share) | set(other.share)
    everything = np.arange(len(data))
    assert count_seen(both, data, everything) == (len(seen), False)
    assert count_seen(both, data, parts.test) == (len(seen & set(parts.test)), False)
    # Of other problems nothing can be said, and that is said.
    assert count_seen((*both, training('train', data='x')), data, parts.train)[1]


@pytest.mark.parametrize(
    'damage',
    [
        lambda content: content | {'version': 2},
        lambda content: [],
        lambda content: {'version': 1},
        lambda content: content | {'trainings': [{}]},
        lambda content: content | {'trainings': [content['trainings'][0] | {'part': 'test'}]},
        lambda content: content | {'trainings': [content['trainings'][0] | {'share': 'x'}]},
        lambda content: content | {'trainings': 5},
    ],
)
def test_a_damaged_file_is_no_silence(tmp_path, damage):
    (text,) = training_data_file([training('train')]).values()
    (tmp_path / FILE).write_text(json.dumps(damage(json.loads(text))))
    with pytest.raises(InputError, match=f'{FILE} does not say what the checkpoint was trained'):
        read_training_data(tmp_path)
