import json

import numpy as np
import planted_toy as toy
import pytest

from cdjax.errors import InputError
from cdjax.planted.ground_truth import NAME, GroundTruth


def test_it_is_read_as_it_was_written(tmp_path):
    truth = toy.ground_truth()
    truth.save(tmp_path)
    for path in (tmp_path, tmp_path / f'{NAME}.json', tmp_path / f'{NAME}.safetensors'):
        read = GroundTruth.load(path)
        for name in ('shared', 'specific', 'necessary', 'living', 'assignments'):
            np.testing.assert_array_equal(getattr(read, name), getattr(truth, name))
            assert getattr(read, name).dtype == getattr(truth, name).dtype
        assert read.info == truth.info
    assert (read.num_classes, read.causal_size) == (2, 2)


def test_where_nothing_is_planted_there_are_no_classes():
    nothing = np.zeros((2, 1, 8), bool)
    truth = toy.ground_truth(shared=nothing[0], specific=nothing, necessary=nothing)
    assert (truth.num_classes, truth.causal_size) == (1, 0)
    assert truth.decoys.all()


def test_it_belongs_to_one_model_and_its_problems():
    truth = toy.ground_truth()
    truth.check_belongs('--ground_truth=x', model='m' * 16, data='d' * 64)
    with pytest.raises(InputError, match='--ground_truth=x belongs to another model'):
        truth.check_belongs('--ground_truth=x', model='n' * 16)
    with pytest.raises(InputError, match='belongs to other problems than those of these flags'):
        truth.check_belongs('--ground_truth=x', data='n' * 64)


@pytest.mark.parametrize(('only', 'told'), [((0.9, 0.3), True), ((0.9, 0.5), False)])
def test_it_says_where_other_neurons_carry_the_answer(recwarn, only, told):
    truth = toy.ground_truth()
    truth.info['verification'] = {'whole': [1.0, 0.6], 'only': list(only)}
    truth.warn_unless_sufficient()
    said = [str(warning.message) for warning in recwarn]
    assert len(said) == told
    assert not told or said[0].startswith('with only its planted circuit a class answers with 0.90')


def _cut(folder):
    (folder / f'{NAME}.safetensors').write_bytes(b'x')


def _format(folder):
    facts = json.loads((folder / f'{NAME}.json').read_text()) | {'format': 7}
    (folder / f'{NAME}.json').write_text(json.dumps(facts))


def _lacking(folder):
    (folder / f'{NAME}.json').unlink()


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (_cut, 'was written beside another one'),
        (_format, 'format 7, and this version reads 1'),
        (_lacking, 'ground_truth.json does not exist'),
    ],
)
def test_what_is_no_ground_truth(tmp_path, damage, message):
    toy.ground_truth().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        GroundTruth.load(tmp_path)
