import dataclasses
import json
import os
import resource
import shutil

import jax
import numpy as np
import pytest
from artefacts import disagreements
from launchers import run_in_turn
from safetensors.numpy import load_file
from torch_llama import SMALL, random_torch_llama

from cdjax.data import build_arithmetic_tokenizer, save_tokenizer
from cdjax.errors import InputError
from cdjax.models import conversion as conversion_module
from cdjax.models.conversion import Conversion, convert
from cdjax.models.orbax_folder import load_orbax
from cdjax.parallel.mesh import make_mesh


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source') / 'model'
    random_torch_llama(dataclasses.replace(SMALL, num_layers=2)).save_pretrained(folder)
    save_tokenizer(build_arithmetic_tokenizer(20), folder)
    return folder


def test_to_orbax_and_back_with_certificates(source, tmp_path):
    mesh = make_mesh(4, 2)
    orbax, back = tmp_path / 'orbax', tmp_path / 'back'
    golden = tmp_path / 'golden.safetensors'
    convert(Conversion(str(source), str(orbax), save_golden=str(golden)), mesh)
    convert(Conversion(str(orbax), str(back), golden=str(golden)), mesh)

    ours, theirs = load_file(back / 'model.safetensors'), load_file(source / 'model.safetensors')
    assert {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}
    assert (back / 'tokenizer.json').read_bytes() == (source / 'tokenizer.json').read_bytes()
    for folder in (orbax, back):
        body = json.loads((tmp_path / f'{folder.name}.parity.json').read_text())
        assert disagreements('certificate', body) == []
        assert body['equal']
        assert set(body['stages']) == {'load', 'export'}
        assert body['stages']['load']['reference'].startswith('transformers')
    # Orbax puts the same model on another mesh.
    up = load_orbax(orbax, mesh=make_mesh(1, 8)).layers.mlp.up.weight[...]
    assert len({str(shard.index) for shard in up.addressable_shards}) == 8
    name = 'model.layers.1.mlp.up_proj.weight'
    np.testing.assert_array_equal(np.asarray(up)[1], theirs[name].T)


def test_to_another_dtype(source, tmp_path):
    target = tmp_path / 'half'
    convert(Conversion(str(source), str(target), to='huggingface', dtype='bfloat16', check=True))
    assert json.loads((target / 'config.json').read_text())['torch_dtype'] == 'bfloat16'
    stored = load_file(target / 'model.safetensors')
    assert {array.dtype.name for array in stored.values()} == {'bfloat16'}
    assert json.loads((tmp_path / 'half.parity.json').read_text())['equal']


def test_a_model_that_is_not_equal_is_not_written(source, tmp_path, monkeypatch):
    def wrong(*args, **options):
        model = load(*args, **options)
        return jax.tree.map(lambda x: x * 1.01, model)

    load = conversion_module.load_huggingface
    monkeypatch.setattr(conversion_module, 'load_huggingface', wrong)
    target = tmp_path / 'target'
    with pytest.raises(InputError, match='parity refused at load in float32'):
        convert(Conversion(str(source), str(target), check=True))
    assert [file.name for file in tmp_path.iterdir()] == ['target.parity.json']
    # At export: what is read back differs from what was written.
    golden = tmp_path / 'golden'
    monkeypatch.setattr(conversion_module, 'load_huggingface', load)
    convert(Conversion(str(source), str(tmp_path / 'orbax'), save_golden=str(golden)))
    monkeypatch.setattr(conversion_module, 'load_huggingface', wrong)
    with pytest.raises(InputError, match='parity refused at export in float32'):
        convert(Conversion(str(tmp_path / 'orbax'), str(target), golden=str(golden)))
    assert not target.exists()


def test_what_is_beside_the_weights_comes_along_without_a_tokenizer(source, tmp_path):
    plain = shutil.copytree(source, tmp_path / 'plain')
    for file in plain.glob('*token*'):
        file.unlink()
    fields = json.loads((plain / 'config.json').read_text())
    (plain / 'config.json').write_text(json.dumps(fields | {'eos_token_id': [5, 6]}))
    (plain / 'generation_config.json').write_text('{"temperature": 0.5}')
    convert(Conversion(str(plain), str(tmp_path / 'orbax')))
    convert(Conversion(str(tmp_path / 'orbax'), str(tmp_path / 'back')))
    assert (tmp_path / 'back' / 'generation_config.json').read_text() == '{"temperature": 0.5}'
    assert json.loads((tmp_path / 'back' / 'config.json').read_text())['eos_token_id'] == [5, 6]


def test_refusals(source, tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    with pytest.raises(InputError, match='full exists and is not empty'):
        convert(Conversion(str(source), str(tmp_path / 'full')))
    with pytest.raises(InputError, match='is no golden file'):
        convert(Conversion(str(source), str(tmp_path / 'new'), golden=str(tmp_path / 'none')))
    with pytest.raises(InputError, match='--save_golden stores what transformers computes'):
        convert(Conversion(str(source), str(tmp_path / 'new'), golden='a', save_golden='b'))
    golden = tmp_path / 'full' / 'file' / 'golden'
    with pytest.raises(InputError, match=r'golden cannot be made: .*full/file is no folder'):
        convert(Conversion(str(source), str(tmp_path / 'new'), save_golden=str(golden)))
    with pytest.raises(InputError, match='there is no folder'):
        convert(Conversion('/no/such/folder', str(tmp_path / 'new')))
    with pytest.raises(InputError, match='full holds no config'):
        convert(Conversion(str(tmp_path / 'full'), str(tmp_path / 'new')))
    assert not (tmp_path / 'new').exists()


# Orbax leaves a thread behind when a write fails.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('to', ['orbax', 'huggingface'])
def test_a_full_disk_leaves_nothing_under_the_name(source, tmp_path, monkeypatch, to):
    """Before anything is written if that can be known, and in the middle of writing."""
    conversion = Conversion(str(source), str(tmp_path / 'out'), to=to)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda _: usage)
        with pytest.raises(InputError, match=r'out needs [\d,]+ bytes and .* has 1,000 left'):
            convert(conversion)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(InputError, match=r'could not be written .*nothing was left under'):
            convert(conversion)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_made(source, tmp_path):
    (tmp_path / 'file').touch()
    for to in ('orbax', 'huggingface'):
        target = tmp_path / 'file' / 'out'
        with pytest.raises(InputError, match=f'cannot be made: {tmp_path / "file"} is no folder'):
            convert(Conversion(str(source), str(target), to=to))
    (tmp_path / 'mine').mkdir()
    conversion = Conversion(str(source), str(tmp_path / 'mine' / 'out'))
    with pytest.MonkeyPatch.context() as patch:
        # The tests may run as root, who may write everywhere.
        patch.setattr(os, 'access', lambda path, _: 'mine' not in str(path))
        with pytest.raises(InputError, match='mine may not be written to; name another folder'):
            convert(conversion)


def test_a_damaged_orbax_folder(source, tmp_path):
    convert(Conversion(str(source), str(tmp_path / 'orbax')))
    for name, content in (('parameters.json', '{"embed.weight": 5}'), ('config.json', '{')):
        folder = shutil.copytree(tmp_path / 'orbax', tmp_path / name)
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=f'{folder}/{name} is (damaged|no config of a model)'):
            convert(Conversion(str(folder), str(tmp_path / 'new')))
    shutil.rmtree(tmp_path / 'orbax' / 'parameters')
    with pytest.raises(InputError, match=f'parameters in {tmp_path}/orbax are damaged .*again'):
        convert(Conversion(str(tmp_path / 'orbax'), str(tmp_path / 'new')))
    assert not (tmp_path / 'new').exists()


def test_launcher(source, tmp_path):
    target = tmp_path / 'out'
    flags = [f'--source={source}', f'--target={target}', '--to=huggingface', '--max_shard_gb=5e-5']
    (done,) = run_in_turn({'convert': ['convert', *flags]}, tmp_path).values()
    assert done.code == 0, done.err
    first, last = done.out.splitlines()
    assert first.startswith(f'convert: {source} to {target}, huggingface; the time ')
    assert last == f'everything is in {target}'
    files = list(target.glob('*.safetensors'))
    assert len(files) > 1
    ours = {name: array for file in files for name, array in load_file(file).items()}
    theirs = load_file(source / 'model.safetensors')
    assert {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}
