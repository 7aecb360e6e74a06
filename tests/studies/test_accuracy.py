"""What a model can do, by range and solved examples, against its answers cell by cell."""

import json

import numpy as np
import pytest
import toy_study as toy
from artefacts import disagreements

from cdjax.data import ArithmeticTask, save_tokenizer
from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.models import save_huggingface
from cdjax.report.terminal import accuracy_table
from cdjax.run.results import to_text
from cdjax.studies.accuracy import AccuracyConfig, measure_accuracy
from cdjax.studies.inputs import InputsConfig

TASK = ArithmeticTask(('+',), 2, answer_tokens=2, several_lengths=True, answer_end=' ')


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoint')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    save_huggingface(toy.model(), folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    inputs = InputsConfig(TASK, teacher=str(folder / 'teacher'))
    config = AccuracyConfig(inputs, ranges=((0, 4), (3, 9)), shots=(0, 2), max_problems=15)
    return measure_accuracy(config, mesh=toy.one_device())


def test_a_cell_for_each_range_and_number_of_examples(found):
    cells = [(cell['low'], cell['high'], cell['shots']) for cell in found['cells']]
    assert cells == [(0, 4, 0), (0, 4, 2), (3, 9, 0), (3, 9, 2)]
    for cell in found['cells']:
        assert cell['problems'] == 15
        assert cell['example'].count('=') == 1 + cell['shots']
        assert cell['by_operators'].keys() == {'+'}
    assert disagreements('accuracy', json.loads(to_text(found))) == []


def test_a_cell_is_what_the_model_answers(found):
    task = ArithmeticTask(
        ('+',), 2, 3, 9, answer_tokens=2, several_lengths=True, answer_end=' ', shots=2
    )
    dataset = task.encode(toy.tokenizer())
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:15])
    answers = predict(toy.model(), dataset[rows], mesh=toy.one_device())
    cell = found['cells'][-1]
    assert cell['accuracy'] == answers.accuracy
    assert cell['probability'] == pytest.approx(answers.mean_probability, rel=1e-4)


def test_the_table(found):
    lines = accuracy_table(found).splitlines()
    assert lines[1].split() == ['0', 'shown', '2', 'shown']
    assert [line.split()[:3] for line in lines[2:]] == [['0', 'to', '4'], ['3', 'to', '9']]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'inputs': InputsConfig('lookup')}, 'task=lookup: ranges are of the arithmetic'),
        ({'ranges': ()}, 'ranges=: name at least one'),
        ({'max_problems': 0}, 'max_problems=0'),
        ({'shots': (3,)}, 'shots=3 with answer_end'),
        ({'ranges': ((9, 3),)}, 'high=3 is below low=9'),
    ],
)
def test_wrong_tables(changes, message):
    with pytest.raises(InputError, match=message):
        AccuracyConfig(**changes)
