"""Whatever is wrong with the inputs is found before a weight is loaded."""

import dataclasses
import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.circuit import Circuit
from cdjax.data import ArithmeticTask, save_tokenizer
from cdjax.data.limits import Limits
from cdjax.data.training_data import FILE, TrainingData, training_data_file
from cdjax.errors import InputError
from cdjax.models import LlamaConfig, save_huggingface
from cdjax.parallel.mesh import make_mesh
from cdjax.studies import inputs as inputs_module
from cdjax.studies.inputs import EMBEDDED_TEACHER, Inputs, InputsConfig


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    def fail(*_, **__):
        raise AssertionError('a weight was loaded')

    monkeypatch.setattr(inputs_module, 'load_huggingface', fail)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoint')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    save_huggingface(toy.model(), folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    return folder / 'teacher'


@pytest.fixture
def teacher(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / 'teacher')


def test_good_inputs(teacher):
    inputs = Inputs(InputsConfig(toy.TASK, teacher=str(teacher), test=0.25, share=0.5))
    assert inputs.teacher_config == toy.teacher_config()
    assert inputs.student_config == toy.teacher_config().half_width()
    assert inputs.student_path is None
    assert inputs.dataset.hash == toy.dataset().hash
    for ours, theirs in zip(inputs.split, toy.rows(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    facts = inputs.facts()
    assert facts['data'] == toy.dataset().hash
    json.dumps(facts)
    with pytest.raises(InputError, match='name one with --student'):
        inputs.load_student(toy.one_device())


def test_the_default_is_the_embedded_teacher():
    inputs = Inputs(InputsConfig(ArithmeticTask()))
    assert inputs.teacher_path == EMBEDDED_TEACHER
    assert inputs.dataset.answers.shape == inputs.dataset.lengths.shape
    assert inputs.student_config.hidden_size * 2 == inputs.teacher_config.hidden_size


def check(message, task=toy.TASK, **changes):
    with pytest.raises(InputError, match=message) as caught:
        Inputs(InputsConfig(task, **changes))
    assert '\n' not in str(caught.value)


def test_a_folder_without_config(teacher):
    (teacher / 'config.json').unlink()
    check('teacher holds no config.json', teacher=str(teacher))


def test_a_folder_that_is_not_there(tmp_path):
    check('no folder .*/nowhere', teacher=str(tmp_path / 'nowhere'))


def test_a_folder_without_tokenizer(teacher):
    for path in teacher.glob('tokenizer*'):
        path.unlink()
    check('teacher holds no tokenizer that can be read', teacher=str(teacher))


def test_a_broken_tokenizer(teacher):
    (teacher / 'tokenizer.json').write_text('{"version": ')
    check('teacher holds no tokenizer that can be read', teacher=str(teacher))


def test_a_student_of_another_vocabulary(teacher, tmp_path):
    student = tmp_path / 'student'
    shape = dataclasses.replace(toy.student_config(), vocab_size=31)
    save_huggingface(toy.random_model(shape), student)
    check('student has 31 tokens and the teacher 30', teacher=str(teacher), student=str(student))


@pytest.mark.parametrize('which', ['teacher', 'student'])
@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda file: file.unlink(), 'holds neither model.safetensors nor'),
        (lambda file: os.truncate(file, file.stat().st_size - 1), 'is truncated or no safetensors'),
        (lambda file: _change_config(file, intermediate_size=48), 'misshapen: .*down_proj.weight'),
        (lambda file: _change_config(file, num_hidden_layers=3), 'missing: model.layers.2'),
    ],
)
def test_weights_that_do_not_fit_are_noticed_by_their_headers(
    checkpoint, tmp_path, damage, message, which
):
    broken = shutil.copytree(checkpoint, tmp_path / 'broken')
    damage(broken / 'model.safetensors')
    check(f'broken.*{message}', **{'teacher': str(checkpoint), which: str(broken)})


def _change_config(weights, **changes):
    file = weights.with_name('config.json')
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_range_that_leaves_the_numbers_of_one_token(teacher):
    task = dataclasses.replace(toy.TASK, high=21)
    check('operands 0 to 21: 21 is not one token.*from 0 to 20', task, teacher=str(teacher))


def test_a_broken_line_of_a_task_file(teacher, tmp_path):
    lines = [json.dumps({'prompt': f'{a}+1=', 'answer': str(a + 1)}) for a in range(9)]
    lines[4] = lines[4][:-3]
    (tmp_path / 'task.jsonl').write_text('\n'.join(lines))
    check(r'task\.jsonl.*line 5|task\.jsonl:5', str(tmp_path / 'task.jsonl'), teacher=str(teacher))


def test_a_task_file_that_is_not_there(teacher, tmp_path):
    check(r'nothing\.jsonl', str(tmp_path / 'nothing.jsonl'), teacher=str(teacher))


def test_random_weights_of_presets():
    config = InputsConfig(toy.TASK, teacher='llama3_8b', student='llama32_1b')
    inputs = Inputs(dataclasses.replace(config, random_weights=True))
    assert inputs.teacher_config == LlamaConfig.llama3_8b()
    assert inputs.student_config == LlamaConfig.llama32_1b()
    assert not inputs.has_student, 'a preset is a shape to begin from nothing with'
    assert inputs.tokenizer_path is None
    assert inputs.teacher_dtype == 'bfloat16'
    assert inputs.tokenizer.encode('24+980=')[1:] == inputs.tokenizer.convert_tokens_to_ids(
        ['24', '+', '980', '=']
    )
    assert inputs.dataset.tokens.shape == toy.dataset().tokens.shape
    check('llama3_8b is a shape without weights.*--random_weights', teacher='llama3_8b')


def test_shape_of_a_student_from_nothing(teacher, tmp_path):
    narrow = dataclasses.replace(toy.teacher_config(), hidden_size=8)
    path = tmp_path / 'narrow.json'
    path.write_text(json.dumps(narrow.to_huggingface()))
    inputs = Inputs(InputsConfig(toy.TASK, teacher=str(teacher), student=str(path)))
    assert not inputs.has_student
    assert inputs.student_config.hidden_size == 8
    check('no.json is no file: name the config.json', student=str(tmp_path / 'no.json'))


def test_random_weights_of_a_folder_and_its_student(teacher):
    for path in teacher.glob('tokenizer*'):
        path.unlink()
    folder = str(teacher)
    inputs = Inputs(InputsConfig(toy.TASK, teacher=folder, student=folder, random_weights=True))
    assert inputs.has_student
    assert len(inputs.tokenizer) <= toy.teacher_config().vocab_size
    mesh = make_mesh(2, 4)
    model, student = inputs.load_teacher(mesh), inputs.load_student(mesh)
    up, other = model.layers.mlp.up.weight[...], student.layers.mlp.up.weight[...]
    assert up.addressable_shards[0].data.size == up.size // 8
    assert up.dtype == inputs.teacher_dtype == 'float32', "as the folder's config says"
    assert other.dtype == 'float32'
    assert not np.allclose(up, other), 'two models'
    as_asked = InputsConfig(toy.TASK, teacher=folder, random_weights=True, teacher_dtype='bfloat16')
    assert Inputs(as_asked).load_teacher(mesh).embed.weight.dtype == 'bfloat16'


def test_dtypes_of_a_checkpoint(teacher, monkeypatch):
    """The teacher is frozen and may stay as it is stored; a student is trained in float32."""
    asked = []
    monkeypatch.setattr(
        inputs_module, 'load_huggingface', lambda *_, mesh, dtype: asked.append(dtype)
    )
    config = InputsConfig(toy.TASK, teacher=str(teacher), student=str(teacher))
    for dtype in ('stored', 'bfloat16'):
        inputs = Inputs(dataclasses.replace(config, teacher_dtype=dtype))
        inputs.load_teacher(None)
        inputs.load_student(None)
    assert asked == [None, jnp.float32, jnp.bfloat16, jnp.float32]
    check('teacher_dtype=int8: choose', teacher=str(teacher), teacher_dtype='int8')


def test_half_of_a_width_that_has_none():
    with pytest.raises(InputError, match='has no half: name a student checkpoint, or the config'):
        dataclasses.replace(toy.teacher_config(), num_heads=1, num_kv_heads=1).half_width()


def test_half_of_grouped_heads():
    half = LlamaConfig.llama31_8b().half_width()
    assert (half.hidden_size, half.intermediate_size, half.num_layers) == (2048, 7168, 32)
    assert (half.num_heads, half.num_kv_heads, half.head_dim) == (16, 4, 128)
    assert half.rope_scaling == LlamaConfig.llama31_8b().rope_scaling


def write_trainings(folder, **changes):
    facts = {'data': toy.dataset().hash, 'split_seed': 0, 'share': 0.25, 'test': 0.2}
    file = training_data_file([TrainingData(**{**facts, 'part': 'share', **changes})])
    (folder / FILE).write_text(file[FILE])


def test_a_student_that_has_seen_what_is_held_out(teacher, tmp_path, recwarn):
    """Distilled with one split and measured with another: the figure would be memory."""
    student = shutil.copytree(teacher, tmp_path / 'student')
    both = {'teacher': str(teacher), 'student': str(student)}
    write_trainings(student)
    inputs = Inputs(InputsConfig(toy.TASK, **both))
    assert not recwarn.list
    check(
        r'student was trained on [1-9]\d* of the \d+ problems .* held out .*: give the split flags '
        r'of its training, --split_seed=0 --share=0\.25 --test=0\.2',
        split_seed=1,
        **both,
    )
    # What it has seen so far and what it is trained on now go on with the next student.
    text = inputs.training_data('share', from_student=True)[FILE]
    parts = [(t['part'], t['split_seed']) for t in json.loads(text)['trainings']]
    assert parts == [('share', 0), ('share', 0)]
    text = inputs.training_data('train without share', 'share', from_student=False)[FILE]
    parts = [t['part'] for t in json.loads(text)['trainings']]
    assert parts == ['train without share', 'share']


def test_a_student_of_other_problems(teacher, tmp_path):
    student = shutil.copytree(teacher, tmp_path / 'student')
    write_trainings(student, data='another')
    with pytest.warns(UserWarning, match='student .* other data sets too; whether .* not known'):
        Inputs(InputsConfig(toy.TASK, teacher=str(teacher), student=str(student)))


def test_a_teacher_that_has_seen_what_is_held_out(teacher, recwarn):
    write_trainings(teacher, part='train')
    Inputs(InputsConfig(toy.TASK, teacher=str(teacher)))
    assert not recwarn.list
    with pytest.warns(UserWarning, match='the teacher was trained on .* may answer them from mem'):
        Inputs(InputsConfig(toy.TASK, teacher=str(teacher), split_seed=1))


def test_circuits_of_another_split(teacher):
    inputs = [
        Inputs(InputsConfig(toy.TASK, teacher=str(teacher), split_seed=seed)) for seed in (0, 1)
    ]
    learned = inputs[0].dataset[inputs[0].split.train]
    info = {'data': inputs[0].dataset.hash, 'rows': learned.hash, **inputs[0].origin}
    empty = np.zeros(0)
    circuit = Circuit(empty, empty, empty, empty, info=info)
    inputs[0].check_circuits(circuit, '--circuits=x')
    with pytest.raises(InputError, match=r'--circuits=x comes from another split, .*split_seed=1'):
        inputs[1].check_circuits(circuit, '--circuits=x')
    # Another share of the same training forms was learned from all the same.
    Inputs(InputsConfig(toy.TASK, teacher=str(teacher), share=0.7)).check_circuits(circuit, 'x')


def test_a_task_file_is_its_counterfactuals_too(teacher, tmp_path):
    """Other counterfactuals give other figures: config.json must tell the two runs apart."""
    path = tmp_path / 'task.jsonl'
    hashes = set()
    for other in ('1+2=', '1+3='):
        line = lambda a, other=other: {
            'prompt': f'{a}+1=',
            'answer': a + 1,
            'counterfactual': other,
        }
        path.write_text('\n'.join(json.dumps(line(a)) for a in (5, 6, 7, 8, 9)))
        facts = Inputs(InputsConfig(str(path), teacher=str(teacher), share=0.5, test=0.4)).facts()
        hashes.add(facts['data'])
    assert len(hashes) == 2


def test_a_checkpoint_that_was_trained_on_is_another_one(teacher):
    """Under the same path: what is stored of the one before must not pass for its figures."""
    config = InputsConfig(toy.TASK, teacher=str(teacher), student=str(teacher))
    before = Inputs(config).facts()
    assert before['teacher_weights'] == before['student_weights'] is not None
    shutil.rmtree(teacher)
    tokenizer = teacher.with_name('tokenizer')
    save_tokenizer(toy.tokenizer(), tokenizer)
    save_huggingface(toy.model(seed=1), teacher, tokenizer_from=tokenizer)
    after = Inputs(config).facts()
    differing = {name for name in before if before[name] != after[name]}
    assert differing == {'teacher_weights', 'student_weights'}
    random = Inputs(dataclasses.replace(config, random_weights=True)).facts()
    assert random['teacher_weights'] is random['student_weights'] is None


def test_limits_leave_the_teachers_problems_and_measure_what_is_beyond(teacher):
    config = InputsConfig(
        toy.TASK, teacher=str(teacher), test=0.25, share=0.5, limits=Limits((9, 4))
    )
    inputs, whole = Inputs(config), toy.rows()
    second = np.array([int(prompt[2]) for prompt in inputs.dataset.prompts])
    np.testing.assert_array_equal(inputs.split.train, whole.train)
    assert (second[inputs.split.share] <= 4).all()
    assert (second[inputs.split.test] <= 4).all()
    assert (second[inputs.beyond] > 4).all()
    both = np.sort(np.concatenate([inputs.split.test, inputs.beyond]))
    np.testing.assert_array_equal(both, whole.test)
    fewer = inputs.with_share(10)
    assert np.isin(fewer.split.share, inputs.split.share).all()
    assert len(inputs.split.share) > 10, 'the first ones are as they were'
    with pytest.raises(InputError, match='leaves no problem held out beyond'):
        Inputs(dataclasses.replace(config, limits=Limits((9,))))


def test_a_rival_has_the_same_prompts(teacher):
    limited = InputsConfig(toy.TASK, teacher=str(teacher), limits=Limits((4,)))
    with pytest.raises(InputError, match='rival=lookup_two has other prompts'):
        Inputs(dataclasses.replace(limited, rival='lookup_two'))
    with pytest.raises(InputError, match='set share_where or share_high too'):
        InputsConfig(toy.TASK, rival='lookup_two')
