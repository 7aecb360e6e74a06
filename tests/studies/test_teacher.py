"""A teacher of our own: from nothing, or fine-tuned from a checkpoint."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.circuit import model_hash
from cdjax.data import save_tokenizer
from cdjax.data.training_data import read_training_data
from cdjax.errors import InputError
from cdjax.models import load_huggingface, save_huggingface
from cdjax.run.options import RunOptions
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.teacher import TeacherConfig, TeacherShape, TeacherStudy
from cdjax.training.language_model import FROM_NOTHING, LanguageModelConfig
from cdjax.training.optimizer import FINE_TUNING, OptimizerConfig

TRAINING = LanguageModelConfig(OptimizerConfig(3), batch_size=32)
OPTIONS = RunOptions(check_gradients=False)


def study(config, workdir, output=None):
    return TeacherStudy(config, workdir, output, mesh=toy.one_device(), options=OPTIONS)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A checkpoint in bfloat16."""
    folder = tmp_path_factory.mktemp('checkpoint')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    shape = dataclasses.replace(toy.teacher_config(), num_layers=1)
    model = jax.tree.map(lambda x: x.astype(jnp.bfloat16), toy.random_model(shape))
    save_huggingface(model, folder / 'model', tokenizer_from=folder / 'tokenizer')
    return folder / 'model'


def test_a_checkpoint_is_fine_tuned_in_float32(checkpoint, tmp_path):
    inputs = InputsConfig(toy.TASK, share=0.5, test=0.25, teacher=str(checkpoint))
    config = TeacherConfig(inputs, training=TRAINING)
    started = study(config, tmp_path / 'run')
    facts = json.loads((tmp_path / 'run' / 'config.json').read_text())['training']['optimizer']
    assert facts['learning_rate'] == FINE_TUNING.learning_rate
    assert facts['weight_decay'] == FINE_TUNING.weight_decay
    teacher = started.run()
    assert str(teacher.folder) == str(tmp_path / 'run' / 'model')
    told = []
    TeacherStudy(config, tmp_path / 'run', mesh=toy.one_device(), announce=told.append)
    assert [(stage.name, stage.done) for stage in told[0].stages] == [
        ('train teacher', True),
        ('export the teacher', True),
    ]
    before = load_huggingface(checkpoint, dtype=jnp.float32)
    moved = []
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(teacher.model), strict=True):
        assert b.dtype == jnp.float32
        difference = np.abs(np.asarray(a) - np.asarray(b))
        assert difference.max() < 4 * FINE_TUNING.learning_rate
        moved.append((difference > 0).mean())
    assert np.mean(moved) > 0.9, 'in bfloat16 most entries stay where they are'
    # It may be fine-tuned again, or be a teacher: tokenizer and provenance are there.
    assert model_hash(load_huggingface(teacher.folder)) == model_hash(teacher.model)
    (trained,) = read_training_data(teacher.folder)
    assert (trained.data, trained.part) == (toy.dataset().hash, 'train')
    onward = InputsConfig(toy.TASK, share=0.5, test=0.25, teacher=str(teacher.folder))
    assert Inputs(onward).dataset.hash == toy.dataset().hash


def test_a_teacher_from_nothing_has_the_shape_that_is_asked_for(tmp_path):
    shape = TeacherShape(
        hidden_size=8, intermediate_size=16, layers=1, heads=2, kv_heads=1, max_number=20
    )
    config = TeacherConfig(InputsConfig(toy.TASK, share=0.5, test=0.25), shape, TRAINING)
    assert config.training.optimizer == OptimizerConfig(3).or_else(FROM_NOTHING)
    teacher = study(config, tmp_path / 'run', tmp_path / 'output').run()
    model = load_huggingface(tmp_path / 'output')
    assert (model.config.num_layers, model.config.intermediate_size) == (1, 16)
    assert model.config.vocab_size == len(toy.tokenizer())
    assert teacher.problems == len(toy.rows().test)
    with pytest.raises(InputError, match='output exists, and this is not the run that made it'):
        study(config, tmp_path / 'another', tmp_path / 'output')
    assert not (tmp_path / 'another').exists()
    assert model_hash(study(config, tmp_path / 'run', tmp_path / 'output').run().model) == (
        model_hash(model)
    )


def test_a_shape_that_is_none_claims_no_folder(tmp_path):
    with pytest.raises(InputError, match='heads=3 does not divide hidden_size=8'):
        TeacherShape(hidden_size=8, heads=3)
    config = TeacherConfig(InputsConfig(toy.TASK), TeacherShape(kv_heads=3), TRAINING)
    with pytest.raises(InputError, match='kv_heads'):
        study(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
