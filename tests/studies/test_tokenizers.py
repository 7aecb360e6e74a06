"""A student of another tokenizer is refused, whose tokens are as many and mean something else."""

import json

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


def inputs(folders):
    return Inputs(
        InputsConfig(toy.TASK, teacher=str(folders / 'teacher'), student=str(folders / 'student'))
    )


def test_the_same_tokenizer_is_taken_and_none_at_all_too(folders):
    assert inputs(folders).has_student
    for file in (folders / 'student').glob('tokenizer*'):
        file.unlink()
    assert inputs(folders).has_student


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
