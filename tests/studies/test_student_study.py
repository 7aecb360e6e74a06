"""One student by itself: whatever can be refused is refused before its folder is claimed."""

import dataclasses
import gc
import os
import shutil
import weakref

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.circuit import Circuit, model_hash
from cdjax.data import save_tokenizer
from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.models import load_huggingface, save_huggingface
from cdjax.run.options import RunOptions
from cdjax.studies import student as stage
from cdjax.studies.distillation import StudentConfig, StudentStudy
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.training import distillation as training
from cdjax.training.distillation import DistillationConfig
from cdjax.training.optimizer import FINE_TUNING, OptimizerConfig

OPTIONS = RunOptions(check_gradients=False)
TEACHER = dataclasses.replace(toy.teacher_config(), num_layers=1)


def first_student(seed=1):
    return toy.random_model(TEACHER.half_width(), seed)


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Returns a folder with two teachers and a student, and circuits of each."""
    folder = tmp_path_factory.mktemp('checkpoints')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    models = {
        'teacher': toy.random_model(TEACHER),
        'other': toy.random_model(TEACHER, seed=3),
        'student': first_student(),
    }
    for name, model in models.items():
        save_huggingface(model, folder / name, tokenizer_from=folder / 'tokenizer')
        save_circuit(folder, name, model, seed=0)
    return folder


def inputs_config(checkpoints, **changes):
    return InputsConfig(
        toy.TASK, share=0.5, test=0.25, teacher=str(checkpoints / 'teacher'), **changes
    )


def save_circuit(checkpoints, name, model, *, seed):
    shape = (toy.K, model.config.num_layers, model.config.intermediate_size)
    scores = np.random.default_rng(seed).random(shape, np.float32)
    inputs = Inputs(inputs_config(checkpoints))
    data = inputs.dataset
    circuit = Circuit(
        masks=scores > 0.7,
        scores=scores,
        fill=np.zeros((1, toy.T, shape[-1]), np.float32),
        assignments=np.arange(len(data), dtype=np.int32) % toy.K,
        info={
            'model': model_hash(model),
            'data': data.hash,
            'rows': data[inputs.split.train].hash,
            **inputs.origin,
        },
    )
    circuit.save(checkpoints / f'{name}_circuits')


def config(checkpoints, *, circuits='teacher', student=None, **changes):
    given = {} if student is None else {'student': str(checkpoints / student)}
    return StudentConfig(
        inputs=inputs_config(checkpoints, **given),
        distillation=DistillationConfig(OptimizerConfig(3), batch_size=32),
        circuits=str(checkpoints / f'{circuits}_circuits'),
        evaluate_every=2,
        **changes,
    )


def study(config, workdir, **more):
    return StudentStudy(config, workdir, mesh=toy.one_device(), options=OPTIONS, **more)


def test_a_student_is_distilled_exported_and_measured_once(checkpoints, tmp_path, monkeypatch):
    chosen = config(checkpoints, student='student', student_circuits=None)
    started = study(chosen, tmp_path / 'run')
    teacher = weakref.ref(started._teacher)

    def distil_alone(*args, **kwargs):
        gc.collect()
        assert teacher() is None  # its memory is the student's
        return training.distill(*args, **kwargs)

    monkeypatch.setattr(stage, 'distill', distil_alone)
    student = started.run()
    stored = load_huggingface(tmp_path / 'run' / 'student')
    assert model_hash(stored) == model_hash(student.model)
    unseen = toy.dataset()[toy.rows().test]
    assert student.problems == len(unseen)
    assert student.accuracy == predict(stored, unseen).accuracy
    # It began with the checkpoint: three steps of fine-tuning move no weight by much.
    for a, b in zip(jax.tree.leaves(first_student()), jax.tree.leaves(student.model), strict=True):
        assert 0 < np.abs(np.asarray(a) - np.asarray(b)).max() < 4 * FINE_TUNING.learning_rate

    monkeypatch.setattr(training, 'batch_indices', lambda *_, **__: pytest.fail('it trained'))
    told = []
    again = study(chosen, tmp_path / 'run', announce=told.append).run()
    assert model_hash(again.model) == model_hash(student.model)
    assert [(stage.reached, stage.done) for stage in told[0].stages] == [(3, True), (0, True)]


def refused(config, workdir, message):
    with pytest.raises(InputError, match=message):
        study(config, workdir)
    assert not workdir.exists()


def test_circuits_of_another_model_claim_no_folder(checkpoints, tmp_path):
    refused(
        config(checkpoints, circuits='other'), tmp_path / 'run', 'other_circuits.*another model'
    )
    student = config(
        checkpoints, student='student', student_circuits=str(checkpoints / 'student_circuits')
    )
    study(student, tmp_path / 'good')
    weights = first_student(seed=9)
    save_huggingface(weights, tmp_path / 'weights', tokenizer_from=checkpoints / 'tokenizer')
    inputs = dataclasses.replace(student.inputs, student=str(tmp_path / 'weights'))
    changed = dataclasses.replace(student, inputs=inputs)
    refused(changed, tmp_path / 'run', '--student_circuits=.*another model')


def test_the_store_of_another_claims_no_folder(checkpoints, tmp_path):
    store = tmp_path / 'store'

    def asking(arm, teacher='teacher', **changes):
        chosen = config(checkpoints, circuits=teacher, student='student', arm=arm)
        inputs = dataclasses.replace(chosen.inputs, teacher=str(checkpoints / teacher))
        how = dataclasses.replace(chosen.distillation, teacher_store=str(store), **changes)
        return dataclasses.replace(chosen, inputs=inputs, distillation=how)

    study(asking('circuits'), tmp_path / 'first').run()
    other = asking('circuits', 'other')
    refused(other, tmp_path / 'run', r'store/activations is of another teacher: name another')
    # Known before a model is loaded, and so to --dry_run.
    with pytest.raises(InputError, match=r'is of another site, .* form of the logits'):
        study(asking('circuits', top_k=2), tmp_path / 'run', announce=pytest.fail)
    # What it does not read is of no matter to it.
    study(asking('attributions', top_k=2), tmp_path / 'attributions')
    os.truncate(store / 'activations' / 'logits-00000.npy', 100)
    refused(asking('circuits'), tmp_path / 'run', 'has 100 bytes and had')


def test_a_checkpoint_that_is_cut_short_claims_no_folder(checkpoints, tmp_path):
    broken = shutil.copytree(checkpoints / 'student', tmp_path / 'broken')
    os.truncate(broken / 'model.safetensors', 4000)
    chosen = config(checkpoints, student='student')
    inputs = dataclasses.replace(chosen.inputs, student=str(broken))
    refused(dataclasses.replace(chosen, inputs=inputs), tmp_path / 'run', 'is truncated')


def test_another_run_is_refused_before_a_model_is_loaded(checkpoints, tmp_path, monkeypatch):
    chosen = config(checkpoints)
    study(chosen, tmp_path / 'run')
    monkeypatch.setattr(Inputs, 'load_teacher', lambda *_: pytest.fail('it was loaded'))
    with pytest.raises(InputError, match='holds another run: evaluate_every is 2 there and 3'):
        study(dataclasses.replace(chosen, evaluate_every=3), tmp_path / 'run')


def test_other_circuits_under_the_same_name_are_another_run(checkpoints, tmp_path):
    here = shutil.copytree(checkpoints, tmp_path / 'checkpoints')
    chosen = dataclasses.replace(
        config(checkpoints), circuits=str(here / 'teacher_circuits.safetensors')
    )
    study(chosen, tmp_path / 'run')
    save_circuit(here, 'teacher', toy.random_model(TEACHER), seed=1)
    with pytest.raises(InputError, match=r'holds another run: circuits is .*teacher_circuits'):
        study(chosen, tmp_path / 'run')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'arm': 'circiuts'}, "no arm 'circiuts': did you mean circuits or one_circuit"),
        ({'circuits': None}, '--arm=circuits needs --circuits=PATH'),
        ({'student_circuits': 'x'}, '--student_circuits=x are not those of a student from nothing'),
        ({'evaluate_every': 0}, 'evaluate_every=0 must be at least 1'),
        ({'export': 'first'}, 'export=first: choose from last, best'),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        StudentConfig(**{'circuits': 'c'} | changes)
