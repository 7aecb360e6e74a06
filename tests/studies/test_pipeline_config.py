"""What a pipeline is asked for: what is open is chosen, and what is wrong is refused at once."""

import dataclasses
import functools
import json

import pytest
import toy_study as toy
from toy_pipeline import SHAPE, make_config, make_teacher, without_students

from cdjax.circuits.circuit import model_hash
from cdjax.circuits.classifier import Encoding
from cdjax.errors import InputError
from cdjax.models import save_huggingface
from cdjax.studies.arms import ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.inputs import InputsConfig
from cdjax.studies.pipeline import Pipeline, PipelineConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.objectives import AnySize, FixedDensity
from cdjax.training.optimizer import OptimizerConfig


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp('checkpoints'))


def test_a_student_that_is_given_is_the_student_that_starts(teacher, tmp_path):
    student = toy.random_model(dataclasses.replace(SHAPE, intermediate_size=8))
    save_huggingface(student, tmp_path / 'student', tokenizer_from=teacher)
    config = make_config(teacher)
    inputs = dataclasses.replace(config.inputs, student=str(tmp_path / 'student'))
    openly = DistillationConfig(OptimizerConfig(3), batch_size=32)
    arms = dataclasses.replace(config.arms, distillation=openly, starts=None)
    config = dataclasses.replace(config, inputs=inputs, arms=arms)
    pipeline = Pipeline(config, tmp_path / 'run', mesh=toy.one_device())
    assert pipeline.config.arms.starts == ('checkpoint',)
    first = pipeline.students.first('checkpoint', 0)
    assert model_hash(first) == model_hash(student)
    written = json.loads((tmp_path / 'run' / 'config.json').read_text())['arms']
    assert written['starts'] == ['checkpoint']
    optimizer = written['distillation']['checkpoint']['optimizer']
    assert (optimizer['learning_rate'], optimizer['weight_decay']) == (2e-5, 0.0)
    assert 'learning rate 2e-05, weight decay 0' in pipeline.config.arms.describe()

    both = dataclasses.replace(arms, starts=('nothing', 'partial'))
    with pytest.raises(InputError, match='starts=nothing,partial would not start from the student'):
        dataclasses.replace(config, arms=both)
    with pytest.raises(InputError, match='starts=checkpoint needs the checkpoint of a student'):
        dataclasses.replace(make_config(teacher), arms=pipeline.config.arms)


def test_what_is_done_with_students_goes_by_the_arms_that_are_run():
    chosen = lambda *arms: PipelineConfig(arms=ArmsConfig(arms=arms))
    done = lambda config: (config.arms.starts, config.rediscover, config.export)
    assert done(chosen('all', 'circuits', 'kd')) == (('nothing',), ('kd', 'circuits'), 'circuits')
    assert done(chosen('all', 'kd')) == (('nothing',), ('kd',), 'all')
    assert done(chosen()) == ((), (), None)
    # As it is written down and read again, a choice stays.
    assert dataclasses.replace(chosen()) == chosen()


@pytest.mark.parametrize(
    ('arms', 'changes', 'message'),
    [
        ({'starts': ('nothing',)}, {}, 'starts is about students, and no arms are run'),
        ({'mechanism': 'learned'}, {}, 'mechanism is about students'),
        ({'training_problems': (20,)}, {}, 'training_problems is about students'),
        ({'circuits': 'planted'}, {}, 'arm_circuits is about students'),
        ({'primary': ('kd', 'all')}, {}, 'primary=kd,all: name two of the arms .* none'),
        ({}, {'rediscover': ('kd',)}, r'rediscover=kd is not among the arms that are run \(none\)'),
        ({}, {'export': 'kd'}, 'export=kd is not among'),
        ({}, {'inputs': InputsConfig(student='llama3_8b')}, 'student=llama3_8b is about students'),
        ({}, {'inputs': InputsConfig(other_tasks=('a', 'b'))}, 'other_tasks=a,b is about students'),
    ],
)
def test_what_is_about_students_is_refused_without_arms(arms, changes, message):
    with pytest.raises(InputError, match=message):
        PipelineConfig(arms=ArmsConfig(arms=(), **arms), **changes)


def test_a_pipeline_without_arms_tells_what_it_would_run(teacher, tmp_path):
    """What would be run is told, and not run: the answer and the token behind it are two."""
    task = dataclasses.replace(toy.TASK, answer_tokens=2, several_lengths=True, answer_end=' ')
    inputs = InputsConfig(task, share=0.5, test=0.25, teacher=str(teacher))
    config = make_config(teacher, inputs=inputs)
    run = functools.partial(Pipeline, workdir=tmp_path / 'run', mesh=toy.one_device())

    class Told(Exception):
        pass

    def announce(outlook):
        raise Told([stage.name for stage in outlook.stages])

    with pytest.raises(Told) as told:
        run(without_students(config), announce=announce)
    (stages,) = told.value.args
    assert stages == [
        *('discover: teacher', 'learn masks: one_mask', 'measure circuits'),
        *('look into neurons', 'look into classes', 'compare layers'),
    ]
    with pytest.raises(InputError, match='arms=: a table needs arms'):
        run(without_students(config), name='compare_arms')
    assert not (tmp_path / 'run').exists()


def refused(teacher, tmp_path, message, **changes):
    config = make_config(teacher)
    with pytest.raises(InputError, match=message):
        Pipeline(dataclasses.replace(config, **changes), tmp_path / 'run', mesh=toy.one_device())
    assert not (tmp_path / 'run').exists()


def test_what_is_wrong_is_found_before_anything_is_written(teacher, tmp_path):
    config = make_config(teacher)
    refused(teacher, tmp_path, 'export=all is not among the arms', export='all')
    refused(teacher, tmp_path, 'rediscover=wrong is not among', rediscover=('wrong',))
    refused(teacher, tmp_path, 'layer_pairs=.*3:0 is not a pair', layer_pairs='3:0')
    deep = dataclasses.replace(config.discovery, encoding=Encoding(1))
    refused(teacher, tmp_path, 'encode_layer=1: the model has layers 0 to 0', discovery=deep)
    # What single stages would say, of which some come hours later.
    sparse = AnySize(density=0.06, smallest=0.2, sizes=2)  # of 16 and 8 neurons
    few = dataclasses.replace(config.discovery, objective=sparse)
    refused(teacher, tmp_path, 'less than one neuron of the student', discovery=few)
    small = dataclasses.replace(config.arms.distillation, batch_size=3)
    small = dataclasses.replace(config.arms, distillation=small)
    refused(teacher, tmp_path, 'batch_size=3 is too small: CKA needs', arms=small)
    many = dataclasses.replace(config.arms.distillation, top_k=99)
    many = dataclasses.replace(config.arms, distillation=many)
    refused(teacher, tmp_path, 'top_k=99: the teacher has 30 tokens', arms=many)
    whole = dataclasses.replace(config.inputs, share=1.0)
    refused(teacher, tmp_path, 'share=1 leaves no training forms', inputs=whole)
    of_one = FixedDensity(density=0.25, hidden=1)
    narrow = dataclasses.replace(config.discovery, num_classes=1, objective=of_one)
    by_operator = dataclasses.replace(config.study, methods=('operator_classes',))
    refused(
        teacher,
        tmp_path,
        'hidden=1 is below the 2 classes.*; or leave operator_classes out of methods',
        discovery=narrow,
        study=by_operator,
    )
    refused(
        teacher,
        tmp_path,
        "arm 'wrong' needs at least 2 classes",
        arms=dataclasses.replace(config.arms, arms=('kd', 'circuits', 'wrong')),
        discovery=dataclasses.replace(config.discovery, num_classes=1),
    )


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'methods': ('two_masks',)}, "no method 'two_masks': did you mean one_mask or"),
        ({'sizes': (0.1, 1.5)}, r'sizes=0\.1,1\.5: name shares'),
        ({'sizes': ()}, 'sizes=: name shares'),
        (
            {'ablations': ('mean', 'noise')},
            'ablation=mean,noise: name one or more of zero, mean, ov',
        ),
        ({'ablations': ('mean', 'mean')}, 'ablation=mean,mean: .* each of them once'),
        ({'ablations': ()}, 'ablation=: name one or more'),
        ({'max_problems': 0}, 'evaluate_problems=0'),
    ],
)
def test_wrong_values_of_a_study(changes, message):
    with pytest.raises(InputError, match=message):
        CircuitStudyConfig(**changes)
