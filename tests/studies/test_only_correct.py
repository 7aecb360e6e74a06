"""Only the problems that the teacher answers: which are left, and where that is recorded."""

import dataclasses

import numpy as np
import pytest
import toy_study as toy
from etils import epath

from cdjax.circuits.circuit import Circuit, model_hash
from cdjax.data import save_tokenizer
from cdjax.errors import InputError
from cdjax.inference.predictions import Predictions
from cdjax.models import save_huggingface
from cdjax.studies import inputs as inputs_module
from cdjax.studies.discovery import DiscoveryStudyConfig, check_accuracy, study_discovery
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.run import Run
from cdjax.training.discovery import DiscoveryConfig

RIGHT = np.random.default_rng(0).random(len(toy.dataset())) < 0.6


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoint')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    save_huggingface(toy.model(), folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    return folder / 'teacher'


@pytest.fixture
def answers(monkeypatch):
    """The toy teacher answers nothing; these are the problems it is made to answer."""

    def set_right(right):
        N = len(right)
        found = Predictions(right, np.zeros(N), np.zeros(N), np.zeros(N, int))
        monkeypatch.setattr(inputs_module, 'predict', lambda *_, **__: found)

    set_right(RIGHT)
    return set_right


def make_inputs(teacher):
    config = InputsConfig(toy.TASK, share=0.5, test=0.25, teacher=str(teacher), only_correct=True)
    return Inputs(config)


def test_the_problems_that_are_left(teacher, answers):
    inputs = make_inputs(teacher)
    facts = inputs.facts()
    assert len(inputs.dataset) == len(RIGHT)
    model = inputs.load_teacher(toy.one_device())
    whole, parts = toy.dataset(), toy.rows()
    assert inputs.dataset.hash == whole[RIGHT].hash
    for rows, before in zip(inputs.split, parts, strict=True):
        kept = whole[before[RIGHT[before]]]
        np.testing.assert_array_equal(inputs.dataset[rows].prompts, kept.prompts)
    assert inputs.dataset.left_out['the teacher answers wrong'] == (~RIGHT).sum()
    assert inputs.origin['only_correct'] == {'right': RIGHT.sum(), 'of': len(RIGHT)}
    # A run is known by what decides the problems, before a weight is loaded and after.
    assert facts['only_correct']
    assert inputs.facts() == facts
    # A second teacher of the same inputs asks no more.
    answers(~RIGHT)
    inputs.load_teacher(toy.one_device())
    assert inputs.dataset.hash == whole[RIGHT].hash
    assert model_hash(model) == model_hash(toy.model())


def test_a_run_knows_its_problems_from_the_start(teacher, answers, tmp_path):
    run = Run(make_inputs(teacher), epath.Path(tmp_path), toy.one_device())
    assert len(run.inputs.dataset) == RIGHT.sum()


def test_circuits_of_other_problems_are_refused_once_they_are_known(teacher, answers):
    inputs = make_inputs(teacher)
    circuit = Circuit(
        np.ones((1, toy.L, toy.F), bool),
        np.zeros((1, toy.L, toy.F), np.float32),
        np.zeros((toy.L, toy.T, toy.F), np.float32),
        np.zeros(len(RIGHT), np.int32),
        info={**inputs.origin, 'data': toy.dataset().hash},
    )
    inputs.check_circuits(circuit, 'early')
    inputs.load_teacher(toy.one_device())
    with pytest.raises(InputError, match='late comes from other problems'):
        inputs.check_circuits(circuit, 'late')


def test_classes_of_other_problems_are_refused_before_the_folder_is_claimed(
    teacher, answers, tmp_path
):
    data = toy.dataset()
    masks = np.zeros((2, toy.L, toy.F), bool)
    info = {**make_inputs(teacher).origin, 'data': data.hash, 'rows': data[toy.rows().train].hash}
    fill = np.zeros((toy.L, toy.T, toy.F), np.float32)
    classes = np.arange(len(data)) % 2
    circuit = Circuit(masks, masks.astype(np.float32), fill, classes, info=info)
    circuit.save(tmp_path / 'all')
    inputs = make_inputs(teacher).config
    config = DiscoveryStudyConfig(inputs, classes_of=str(tmp_path / 'all'))
    small = dataclasses.replace(config.discovery, batch_size=16, num_classes=2)
    config = dataclasses.replace(config, discovery=small)
    with pytest.raises(InputError, match=r'--classes_of=.* comes from other problems'):
        study_discovery(config, tmp_path / 'run', mesh=toy.one_device())
    assert not (tmp_path / 'run').exists()


def test_a_teacher_that_answers_too_little_is_refused(teacher, answers):
    few = np.zeros(len(RIGHT), bool)
    few[[*toy.rows().test[:4], *toy.rows().share[:4]]] = True
    answers(few)
    inputs = make_inputs(teacher)
    models = {'teacher': inputs.load_teacher(toy.one_device())}
    with pytest.raises(InputError, match=r'the teacher answers 5\.2% of these problems'):
        check_accuracy(inputs, models, DiscoveryConfig(), mesh=toy.one_device())


def test_a_part_without_any_problem_is_refused(teacher, answers):
    none_to_test = RIGHT.copy()
    none_to_test[toy.rows().test] = False
    answers(none_to_test)
    with pytest.raises(InputError, match=r"only_correct leaves .* none in the part 'test'"):
        make_inputs(teacher).load_teacher(toy.one_device())


def test_it_is_off_by_default():
    assert not InputsConfig().only_correct
    names = {field.name for field in dataclasses.fields(InputsConfig)}
    assert {'answer_tokens', 'answer_end', 'prompt_prefix'} <= names
