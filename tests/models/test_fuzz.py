"""Damaged checkpoints: each is refused in one line, or loads to the bit as it was.

The mutations are drawn from a seed. That a damaged file is refused would be easy to achieve by
refusing everything, so harmless changes are counted too.
"""

import json
import random
import shutil

import jax
import numpy as np
import pytest
import toy_study as toy
from mutations import mutate_bytes, mutate_json, refusal
from safetensors.numpy import load_file, save_file

from cdjax.data import save_tokenizer
from cdjax.errors import InputError
from cdjax.models import load_huggingface, save_huggingface
from cdjax.models.huggingface import read_config
from cdjax.models.orbax_folder import load_orbax, save_orbax
from cdjax.models.tensor_files import INDEX, SINGLE
from cdjax.studies.inputs import Inputs, InputsConfig

SCALING = {
    'rope_scaling': {
        **{'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0},
        'original_max_position_embeddings': 8192,
    },
    'rope_parameters': None,
}


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoints')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    save_huggingface(toy.model(), folder / 'one', tokenizer_from=folder / 'tokenizer')
    save_huggingface(toy.model(), folder / 'many', max_shard_bytes=4000)
    save_orbax(toy.model(), folder / 'orbax')
    return folder


@pytest.fixture
def folder(checkpoints, tmp_path, request):
    return shutil.copytree(checkpoints / request.param, tmp_path / request.param)


def survive(mutations, read):
    """Returns how many of the mutations are read; the others are refused in one line each."""
    return sum(refusal(read, content) is None for content in mutations)


def equals_the_original(model):
    for ours, theirs in zip(jax.tree.leaves(model), jax.tree.leaves(toy.model()), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('folder', ['one'], indirect=True)
@pytest.mark.parametrize('extra', [{}, SCALING], ids=['plain', 'scaled'])
def test_configs(folder, extra):
    rng = random.Random(0)
    file = folder / 'config.json'
    fields = json.loads(file.read_text()) | extra

    def read(content):
        file.write_bytes(content)
        config, said = read_config(folder), json.loads(content.decode('utf-8-sig'))
        numbers = {
            'vocab_size': config.vocab_size,
            'hidden_size': config.hidden_size,
            'intermediate_size': config.intermediate_size,
            'num_hidden_layers': config.num_layers,
            'num_attention_heads': config.num_heads,
            'max_position_embeddings': config.max_length,
            'rms_norm_eps': config.norm_eps,
        }
        assert numbers == {name: said[name] for name in numbers}
        assert all(type(size) is int for size in list(numbers.values())[:-1])
        assert np.isfinite([config.norm_eps, config.rope_theta]).all()
        assert bool(said.get('tie_word_embeddings')) == config.tie_embeddings
        # A config that can be read may still be of another model: the tensors tell.
        load_huggingface(folder)

    assert survive((mutate_json(fields, rng) for _ in range(150)), read) > 10


@pytest.mark.parametrize('folder', ['one'], indirect=True)
def test_headers_of_safetensors(folder):
    rng = random.Random(1)
    file = folder / SINGLE
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], 'little')
    header, data = json.loads(whole[8:end]), whole[end:]

    def mutations():
        for _ in range(150):
            text = mutate_json(header, rng)
            yield len(text).to_bytes(8, 'little') + text + data
            yield mutate_bytes(whole[:end], rng) + data
        for _ in range(50):
            yield whole[: rng.randrange(len(whole))]

    def read(content):
        file.write_bytes(content)
        equals_the_original(load_huggingface(folder))

    assert survive(mutations(), read) > 2


@pytest.mark.parametrize('folder', ['many'], indirect=True)
def test_indexes(folder):
    rng = random.Random(2)
    index = json.loads((folder / INDEX).read_text())

    def read(content):
        (folder / INDEX).write_bytes(content)
        equals_the_original(load_huggingface(folder))

    assert survive((mutate_json(index, rng) for _ in range(150)), read) > 5


@pytest.mark.parametrize('folder', ['many'], indirect=True)
def test_a_tensor_that_two_files_hold(folder):
    """Which of them is meant is for the index to say, and the other is one too many."""
    first, *_, last = sorted(folder.glob('*.safetensors'))
    held = load_file(last)
    save_file(held | {name: tensor + 1 for name, tensor in load_file(first).items()}, last)
    with pytest.raises(InputError, match='the headers of its files disagree about'):
        load_huggingface(folder)


@pytest.mark.parametrize('folder', ['many'], indirect=True)
@pytest.mark.parametrize(
    'astray', ['../one/model.safetensors', '/etc/hostname', 'x/model.safetensors', '..', '', 5]
)
def test_an_index_stays_in_its_folder(folder, astray, checkpoints):
    """Not even where the file it points to exists, and is that of a sound checkpoint."""
    shutil.copytree(checkpoints / 'one', folder.parent / 'one')
    (folder / 'x').mkdir()
    shutil.copy(checkpoints / 'one' / SINGLE, folder / 'x')
    index = json.loads((folder / INDEX).read_text())
    index['weight_map'] = dict.fromkeys(index['weight_map'], astray)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=f'{INDEX} (is no index|names )') as caught:
        load_huggingface(folder)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('folder', ['orbax'], indirect=True)
def test_dtypes_of_orbax_folders(folder):
    rng = random.Random(3)
    dtypes = json.loads((folder / 'parameters.json').read_text())

    def read(content):
        (folder / 'parameters.json').write_bytes(content)
        equals_the_original(load_orbax(folder))

    assert survive((mutate_json(dtypes, rng) for _ in range(60)), read) > 0


@pytest.mark.parametrize('folder', ['one'], indirect=True)
@pytest.mark.parametrize('name', ['tokenizer.json', 'tokenizer_config.json'])
def test_tokenizers(folder, name):
    rng = random.Random(4)
    content = json.loads((folder / name).read_text())

    def read(content):
        (folder / name).write_bytes(content)
        inputs = Inputs(InputsConfig(toy.TASK, teacher=str(folder)))
        decode = inputs.tokenizer.backend_tokenizer.decode
        for tokens, prompt in zip(inputs.dataset.tokens, inputs.dataset.prompts, strict=True):
            assert decode(tokens[1:].tolist(), skip_special_tokens=False) == prompt

    assert survive((mutate_json(content, rng) for _ in range(30)), read) > 2
