import dataclasses
import json
import random
from functools import partial

import jax
import numpy as np
import pytest
import toy_study as toy
from mutations import mutate_bytes, mutate_json, refusal

from cdjax.circuits.circuit import Circuit, model_hash, tokenizer_hash
from cdjax.circuits.classifier import Encoding
from cdjax.circuits.masks import binarize
from cdjax.data import build_arithmetic_tokenizer
from cdjax.errors import InputError
from cdjax.parallel.mesh import make_mesh


def random_circuit(*, fixed=False):
    rng = np.random.default_rng(0)
    scores = rng.random((3, 2, 8)).astype(np.float32)
    classifier = {
        'weight': rng.normal(size=(4, 3)).astype(np.float32),
        'bias': np.zeros(3, np.float32),
        'mean': np.ones(4, np.float32),
        'inverse_deviation': np.full(4, 0.5, np.float32),
    }
    return Circuit(
        masks=binarize(scores, 5),
        scores=scores,
        fill=rng.normal(size=(2, 5, 8)).astype(np.float32),
        assignments=rng.integers(3, size=20, dtype=np.int32),
        classifier={} if fixed else classifier,
        encoding=Encoding(1, None if fixed else (1, -2)),
        info={'model': 'abc', 'metrics': {'accuracy': 0.5}},
    )


@pytest.mark.parametrize('fixed', [False, True])
@pytest.mark.parametrize('ending', ['', '.safetensors', '.json'])
def test_what_is_saved_is_loaded_to_the_bit(tmp_path, fixed, ending):
    circuit = random_circuit(fixed=fixed)
    path = circuit.save(tmp_path / 'circuits' / f'teacher-v1.5{ending}')
    assert path.name == 'teacher-v1.5.safetensors'
    loaded = Circuit.load(tmp_path / 'circuits' / f'teacher-v1.5{ending}')
    for name in ('masks', 'scores', 'fill', 'assignments'):
        before, after = getattr(circuit, name), getattr(loaded, name)
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)
    assert loaded.classifier.keys() == circuit.classifier.keys()
    for name, value in circuit.classifier.items():
        np.testing.assert_array_equal(loaded.classifier[name], value)
    assert loaded.encoding == circuit.encoding
    assert loaded.info == circuit.info
    assert sorted(p.name for p in path.parent.iterdir()) == [
        'teacher-v1.5.json',
        'teacher-v1.5.safetensors',
    ]


def test_the_json_says_what_is_inside(tmp_path):
    random_circuit().save(tmp_path / 'teacher')
    facts = json.loads((tmp_path / 'teacher.json').read_text())
    assert (facts['classes'], facts['neurons'], facts['share']) == (3, 5, 5 / 16)


@pytest.mark.parametrize('part', ['safetensors', 'json'])
def test_half_a_pair_is_named(tmp_path, part):
    random_circuit().save(tmp_path / 'teacher')
    (tmp_path / f'teacher.{part}').unlink()
    with pytest.raises(InputError, match=rf'teacher\.{part} does not exist'):
        Circuit.load(tmp_path / 'teacher')


@pytest.mark.parametrize(
    ('part', 'damage'),
    [
        ('safetensors', lambda old: old[: len(old) // 2]),
        ('safetensors', lambda old: b''),
        ('json', lambda old: old[:-5]),
        ('json', lambda old: b'[]'),
        ('json', lambda old: old.replace(b'"encoding"', b'"encodings"')),
        ('json', lambda old: b'\xff' + old),
    ],
)
def test_damage_is_an_input_error_of_one_line(tmp_path, part, damage):
    random_circuit().save(tmp_path / 'teacher')
    path = tmp_path / f'teacher.{part}'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r'teacher\.safetensors is not a circuit, or is damaged'):
        Circuit.load(tmp_path / 'teacher')


@pytest.mark.parametrize('other', [1, 3])
def test_another_format_is_named(tmp_path, other):
    random_circuit().save(tmp_path / 'teacher')
    path = tmp_path / 'teacher.json'
    path.write_text(path.read_text().replace('"format": 2', f'"format": {other}'))
    with pytest.raises(
        InputError,
        match=rf'teacher\.json has format {other} and this version reads 2: discover .* again',
    ):
        Circuit.load(tmp_path / 'teacher')


def test_a_pair_of_two_circuits_is_none(tmp_path):
    """A kill between the two files, or a copy of one of them, must not pass for a circuit."""
    random_circuit().save(tmp_path / 'teacher')
    random_circuit(fixed=True).save(tmp_path / 'other')
    (tmp_path / 'other.json').rename(tmp_path / 'teacher.json')
    with pytest.raises(InputError, match=r'teacher\.json was written beside another one'):
        Circuit.load(tmp_path / 'teacher')


HERE = {'data': 'd0', 'rows': 'r0', 'tokenizer': 't0', 'model': 'm0'}
SPLIT = {'split_seed': 0, 'share': 0.25, 'test': 0.2}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'rows': 'r1'}, 'another split, .*unseen here .*split_seed=0 there, split_seed=1 here'),
        ({'data': 'd1'}, 'other problems than those of these flags: give the task flags'),
        ({'tokenizer': 't1'}, 'another tokenizer: '),
        ({'model': 'm1'}, 'another model: name the checkpoint'),
        ({'tokenizer': 't1', 'model': 'm1'}, 'another tokenizer and another model: '),
    ],
)
def test_circuits_belong_to_problems_split_tokenizer_and_model(changes, message):
    circuit = dataclasses.replace(random_circuit(), info=HERE | {'split': SPLIT})
    there = SPLIT | {'split_seed': 1}
    circuit.check_belongs('--circuits=x', split=there, **HERE)
    with pytest.raises(InputError, match=f'--circuits=x comes from {message}') as caught:
        circuit.check_belongs('--circuits=x', split=there, **HERE | changes)
    assert '\n' not in str(caught.value)
    assert circuit.differences(**HERE | changes) == [key for key in HERE if key in changes]


def test_circuits_that_do_not_say_where_they_come_from_belong_nowhere():
    with pytest.raises(InputError, match='another split'):
        random_circuit().check_belongs('--circuits=x', split=SPLIT, rows='r0')
    # Other problems have other rows too, and the split says nothing then.
    with pytest.raises(InputError, match='comes from other problems than those of these flags: '):
        random_circuit().check_belongs('--circuits=x', split=SPLIT, data='d0', rows='r0')


def test_overlap_by_hand():
    circuit = random_circuit()
    a = np.zeros((2, 1, 4), bool)
    b = np.zeros((3, 1, 4), bool)
    a[0, 0, [0, 1]] = a[1, 0, [2, 3]] = True
    b[0, 0, [0, 1]] = b[1, 0, [1, 2]] = True  # b[2] is empty
    overlap = dataclasses.replace(circuit, masks=a).overlap(dataclasses.replace(circuit, masks=b))
    np.testing.assert_allclose(overlap, [[1, 1 / 3, 0], [0, 1 / 3, 0]])


def test_sizes():
    circuit = random_circuit()
    assert (circuit.num_classes, circuit.size, circuit.share) == (3, 5, 5 / 16)
    other = circuit.at_size(9)
    assert other.size == 9
    assert (other.masks | ~circuit.masks).all(), 'a larger circuit holds the smaller one'
    with pytest.raises(InputError, match='from 1 to 16'):
        circuit.at_size(17)


def test_fixed_classes_have_no_classifier():
    with pytest.raises(InputError, match='fixed beforehand'):
        random_circuit(fixed=True).classify(np.zeros((1, 4)))


def test_a_classifier_reads_the_width_it_has_learned():
    with pytest.raises(InputError, match='encodings of 32 features, and the classifier reads 4'):
        random_circuit().classify(np.zeros((1, 32)))


def test_a_model_is_known_by_shape_and_weights_on_any_mesh():
    model = toy.model()
    known = model_hash(model)
    assert known == model_hash(toy.model(make_mesh(2, 4)))
    assert known != model_hash(toy.model(seed=1))
    leaves, structure = jax.tree.flatten(model)
    leaves[3] = leaves[3].at[(0,) * leaves[3].ndim].add(1e-3)
    assert known != model_hash(jax.tree.unflatten(structure, leaves))
    other = jax.tree.unflatten(structure, jax.tree.leaves(model))
    other.config = dataclasses.replace(model.config, rope_theta=1e6)
    assert known != model_hash(other)


def test_a_tokenizer_is_known_by_its_vocabulary():
    assert tokenizer_hash(toy.tokenizer()) == tokenizer_hash(
        build_arithmetic_tokenizer(toy.MAX_NUMBER)
    )
    assert tokenizer_hash(toy.tokenizer()) != tokenizer_hash(
        build_arithmetic_tokenizer(toy.MAX_NUMBER + 1)
    )


def test_damaged_circuits_are_refused_or_harmless(tmp_path):
    rng = random.Random(0)
    circuit = random_circuit()
    tensors = circuit.save(tmp_path / 'teacher')
    json_file, whole = tmp_path / 'teacher.json', tensors.read_bytes()
    facts = json.loads(json_file.read_text())

    def read(file, content):
        file.write_bytes(content)
        loaded = Circuit.load(tmp_path / 'teacher')
        loaded.differences(data='x')
        for name in ('masks', 'scores', 'fill', 'assignments'):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(circuit, name))

    of_json = partial(read, json_file)
    refusals = [refusal(of_json, mutate_json(facts, rng)) for _ in range(150)]
    assert 5 < refusals.count(None) < 150
    json_file.write_text(json.dumps(facts))
    refusals = [refusal(partial(read, tensors), mutate_bytes(whole, rng)) for _ in range(150)]
    assert refusals.count(None) < 5
