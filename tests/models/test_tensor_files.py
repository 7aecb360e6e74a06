import shutil

import numpy as np
import pytest
import toy_study as toy
from safetensors.numpy import load_file, save_file

from cdjax.models import save_huggingface
from cdjax.models.tensor_files import SINGLE, fingerprint


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model') / 'one'
    save_huggingface(toy.model(), folder)
    return folder


def test_a_fingerprint_is_of_the_tensors_and_not_of_the_files(folder, tmp_path):
    known = fingerprint(folder)
    assert len(known) == 16
    save_huggingface(toy.model(), tmp_path / 'many', max_shard_bytes=4000)
    assert len(list((tmp_path / 'many').glob('*.safetensors'))) > 1
    assert fingerprint(tmp_path / 'many') == known
    save_huggingface(toy.model(seed=1), tmp_path / 'other')
    assert fingerprint(tmp_path / 'other') != known


@pytest.mark.parametrize('part', ['one matrix', 'one vector', 'dtype', 'name', 'shape'])
def test_a_fingerprint_sees_what_an_editor_of_models_does(folder, tmp_path, part):
    other = shutil.copytree(folder, tmp_path / 'other')
    tensors = load_file(other / SINGLE)
    down, norm = 'model.layers.1.mlp.down_proj.weight', 'model.norm.weight'
    if part == 'one matrix':  # of rank one, as an edited fact is
        rng = np.random.default_rng(0)
        rows, columns = (rng.standard_normal(n, np.float32) for n in tensors[down].shape)
        tensors[down] += np.float32(1e-3) * np.outer(rows, columns)
    elif part == 'one vector':
        tensors[norm][0] += 1e-3
    elif part == 'dtype':
        tensors[norm] = tensors[norm].view(np.int32)
    elif part == 'name':
        tensors['model.norm.bias'] = tensors.pop(norm)
    else:
        tensors[down] = tensors[down].T.copy()
    save_file(tensors, other / SINGLE)
    assert fingerprint(other) != fingerprint(folder)


def test_odd_tensors_have_a_fingerprint_too(tmp_path):
    tensors = {'scalar': np.float32(1), 'none': np.zeros((3, 0), np.float32), 'ids': np.arange(3)}
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, tmp_path / SINGLE)
    assert len(fingerprint(tmp_path)) == 16


def test_a_fingerprint_of_a_small_checkpoint_sees_every_weight(folder, tmp_path):
    tensors = load_file(folder / SINGLE)
    known = fingerprint(folder)
    for name, tensor in tensors.items():
        changed = tensor.copy()
        changed.reshape(-1)[1] += 1
        save_file(tensors | {name: changed}, tmp_path / SINGLE)
        assert fingerprint(tmp_path) != known, name
