"""A student of another tokenizer is refused, whose tokens are as many and mean something else."""

import json
import warnings

import pytest
import toy_study as toy

from cdjax.data import save_tokenizer
from cdjax.errors import InputError
from cdjax.models import save_huggingface
from cdjax.studies.inputs import Inputs, InputsConfig


@pytest.fixture
def folders(tmp_path):
    save_tokenizer(toy.tokenizer(), tmp_path / 'tokenizer')
    for name, student in (('teacher', False), ('student', True)):
        model = toy.model(student=student, seed=int(student))
        save_huggingface(model, tmp_path / name, tokenizer_from=tmp_path / 'tokenizer')
    return tmp_path


def inputs(folders, **changes):
    models = {name: str(folders / name) for name in ('teacher', 'student')}
    return Inputs(InputsConfig(toy.TASK, **models, **changes))


def test_the_same_tokenizer_is_taken_and_none_at_all_with_a_warning(folders):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert inputs(folders).has_student
    for file in (folders / 'student').glob('tokenizer*'):
        file.unlink()
    with pytest.warns(UserWarning, match='student=.*student has no tokenizer, and its tokens are'):
        assert inputs(folders).has_student
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        inputs(folders, random_weights=True)  # they were trained on no tokens


def test_a_vocabulary_of_the_same_size_in_another_order(folders):
    file = folders / 'student' / 'tokenizer.json'
    content = json.loads(file.read_text())
    vocabulary = content['model']['vocab']
    vocabulary['1'], vocabulary['2'] = vocabulary['2'], vocabulary['1']
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r'has a tokenizer of another vocabulary \(hash \w{16}\)'):
        inputs(folders)


def test_another_rule_for_bos(folders):
    file = folders / 'student' / 'tokenizer.json'
    content = json.loads(file.read_text())
    content['post_processor'] = None
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r'their rules for the token at the beginning \(BOS\)'):
        inputs(folders)
