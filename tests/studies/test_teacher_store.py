"""A store on disk that is another's is refused before anything is searched or trained."""

import dataclasses

import pytest
import toy_pipeline
import toy_study as toy

from cdjax.data import save_tokenizer
from cdjax.distillation.shards import stored_teacher
from cdjax.errors import InputError
from cdjax.models import Llama, save_huggingface
from cdjax.studies.inputs import Inputs
from cdjax.studies.pipeline import Pipeline
from cdjax.studies.students import asked_of_teacher


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A pipeline whose store is that of its own teacher."""
    folder = tmp_path_factory.mktemp('stores')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    save_huggingface(toy.model(), folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    config = toy_pipeline.make_config(folder / 'teacher')
    how = dataclasses.replace(config.arms.distillation, teacher_store=str(folder / 'store'))
    config = dataclasses.replace(config, arms=dataclasses.replace(config.arms, distillation=how))
    store(config, folder / 'store', toy.model())
    return config


def store(config, folder, teacher: Llama):
    inputs = Inputs(config.inputs)
    asked = asked_of_teacher(inputs, config.arms, config.layer_pairs)
    problems, wanted = inputs.dataset[asked.rows], asked.wanted('activations')
    stored_teacher(folder / 'activations', teacher, problems, wanted)


def started(config, workdir, **more):
    return Pipeline(config, workdir, mesh=toy.one_device(), **more)


def test_the_store_of_another_teacher_claims_no_folder(config, tmp_path):
    store(config, tmp_path / 'store', toy.model(seed=4))
    how = dataclasses.replace(config.arms.distillation, teacher_store=str(tmp_path / 'store'))
    arms = dataclasses.replace(config.arms, distillation=how)
    with pytest.raises(InputError, match='store/activations is of another teacher'):
        started(dataclasses.replace(config, arms=arms), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    started(config, tmp_path / 'run')
    assert (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'max_problems': 30}, 'is of other problems'),
        ({'arms': ('kd', 'random_equal')}, 'is of another site'),  # it wants output matrices too
    ],
)
def test_another_study_is_known_before_a_model_is_loaded(config, tmp_path, changes, message):
    arms = dataclasses.replace(config.arms, **changes)
    other = dataclasses.replace(config, arms=arms, rediscover=(), export='kd')
    with pytest.raises(InputError, match=message):
        started(other, tmp_path / 'run', announce=pytest.fail)


def test_problems_that_the_teacher_chooses_are_compared_once_it_has(config):
    arms = dataclasses.replace(config.arms, max_problems=30)
    inputs = Inputs(dataclasses.replace(config.inputs, only_correct=True))
    asked = asked_of_teacher(inputs, arms, config.layer_pairs)
    asked.check_store(inputs)
    inputs.right = {'right': 137, 'of': 137}
    with pytest.raises(InputError, match='is of other problems'):
        asked.check_store(inputs)
