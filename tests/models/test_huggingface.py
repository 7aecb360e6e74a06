import dataclasses
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from torch_llama import SMALL, random_torch_llama

from cdjax.data import build_arithmetic_tokenizer, save_tokenizer
from cdjax.errors import InputError
from cdjax.models import (
    huggingface,
    huggingface_export,
    load_huggingface,
    save_huggingface,
    target_folder,
)
from cdjax.models.tensor_files import StoredTensor
from cdjax.parallel.mesh import make_mesh
from cdjax.run import buckets

UP = 'model.layers.1.mlp.up_proj.weight'


@pytest.fixture(scope='module')
def reference():
    return random_torch_llama(SMALL)


@pytest.fixture(scope='module')
def saved(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp('hf') / 'model'
    reference.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the checkpoint that a test may break."""
    return shutil.copytree(saved, tmp_path / 'copy')


def stored(folder):
    """All tensors of a folder, read by the safetensors library."""
    files = sorted(folder.glob('*.safetensors'))
    return {name: array for file in files for name, array in load_file(file).items()}


def rewrite(folder, change):
    """Applies `change` to the dict of tensors of a one-file checkpoint."""
    tensors = stored(folder)
    change(tensors)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        assert ours[name].shape == array.shape, name
        assert ours[name].tobytes() == array.tobytes(), name


# ------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize('shape', [None, (1, 1), (8, 1), (4, 2), (1, 8)])
def test_weights_equal_torch_on_any_mesh(saved, reference, shape):
    mesh = None
    if shape is not None:
        mesh = make_mesh(*shape, devices=jax.devices()[: shape[0] * shape[1]])
    model = load_huggingface(saved, mesh=mesh)
    blocks = reference.model.layers
    pairs = [
        (model.embed.weight, reference.model.embed_tokens.weight),
        (model.norm.weight, reference.model.norm.weight),
        (model.lm_head.weight, reference.lm_head.weight.T),
        (model.layers.input_norm.weight, [b.input_layernorm.weight for b in blocks]),
        (model.layers.mlp_norm.weight, [b.post_attention_layernorm.weight for b in blocks]),
        (model.layers.attention.q.weight, [b.self_attn.q_proj.weight.T for b in blocks]),
        (model.layers.attention.k.weight, [b.self_attn.k_proj.weight.T for b in blocks]),
        (model.layers.attention.v.weight, [b.self_attn.v_proj.weight.T for b in blocks]),
        (model.layers.attention.o.weight, [b.self_attn.o_proj.weight.T for b in blocks]),
        (model.layers.mlp.gate.weight, [b.mlp.gate_proj.weight.T for b in blocks]),
        (model.layers.mlp.up.weight, [b.mlp.up_proj.weight.T for b in blocks]),
        (model.layers.mlp.down.weight, [b.mlp.down_proj.weight.T for b in blocks]),
    ]
    assert len(pairs) == len(jax.tree.leaves(model))
    for ours, theirs in pairs:
        if isinstance(theirs, list):
            theirs = torch.stack(theirs)
        np.testing.assert_array_equal(ours[...], theirs.detach().numpy())
    if mesh is not None:
        assert model.layers.mlp.up.weight[...].sharding.mesh == mesh
        pieces = {str(s.index) for s in model.layers.mlp.up.weight[...].addressable_shards}
        assert len(pieces) == shape[0] * shape[1]  # d=32 and F=48 divide by all of them


def test_each_weight_is_read_once_under_replication(saved, monkeypatch):
    read = []
    chunks = StoredTensor.chunks

    def counting(self, index):
        for row, part in chunks(self, index):
            read.append(part.nbytes)
            yield row, part

    monkeypatch.setattr(StoredTensor, 'chunks', counting)
    model = load_huggingface(saved, mesh=make_mesh(4, 2))
    arrays = [leaf[...] for leaf in jax.tree.leaves(model)]
    assert sum(read) == sum(array.nbytes for array in arrays)
    norms = model.layers.input_norm.weight[...]
    assert len(norms.addressable_shards) == 8  # replicated, and read once all the same
    assert norms.is_fully_replicated


def test_the_host_holds_one_devices_slice_of_a_parameter(saved, monkeypatch):
    read, sizes = huggingface._SliceReader.__call__, []

    def recording(self, index):
        host = read(self, index)
        sizes.append(host.nbytes)
        return host

    monkeypatch.setattr(huggingface._SliceReader, '__call__', recording)
    model = load_huggingface(saved, mesh=make_mesh(2, 4))
    slices = []
    for leaf in jax.tree.leaves(model):
        distinct = {str(shard.index): shard.data.nbytes for shard in leaf.addressable_shards}
        slices += distinct.values()
    assert sorted(sizes) == sorted(slices)
    assert max(sizes) == model.layers.mlp.up.weight[...].nbytes // 8


def test_large_tensors_are_read_and_written_in_chunks(saved, tmp_path, monkeypatch):
    """1000 bytes at a time, where the largest tensor has 12,288 and a row at most 384."""
    for module in ('tensor_files', 'huggingface_export'):
        monkeypatch.setattr(f'cdjax.models.{module}.CHUNK_BYTES', 1000)
    sizes = {'read': [], 'write': []}

    def recording(chunks, kind, part):
        def record(*args):
            for chunk in chunks(*args):
                sizes[kind].append(part(chunk).nbytes)
                yield chunk

        return record

    read = recording(StoredTensor.chunks, 'read', lambda chunk: chunk[1])
    write = recording(huggingface_export._host_chunks, 'write', lambda chunk: chunk)
    monkeypatch.setattr(StoredTensor, 'chunks', read)
    monkeypatch.setattr(huggingface_export, '_host_chunks', write)
    save_huggingface(load_huggingface(saved, mesh=make_mesh(2, 4)), tmp_path / 'out')
    assert_same_bits(stored(tmp_path / 'out'), stored(saved))
    whole = sum(array.nbytes for array in stored(saved).values())
    for kind in ('read', 'write'):
        assert sum(sizes[kind]) == whole
        assert 400 < max(sizes[kind]) <= 1000


def test_conversion_on_the_way_rounds_as_torch_does(saved, reference):
    model = load_huggingface(saved, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(jnp.bfloat16)}
    theirs = reference.model.layers[2].mlp.down_proj.weight.detach().to(torch.bfloat16)
    ours = np.asarray(model.layers.mlp.down.weight[2], np.float32)
    np.testing.assert_array_equal(ours, theirs.float().numpy().T)


def test_each_tensor_keeps_its_own_dtype(folder, tmp_path):
    """Norms in float32, matrices in bfloat16, one in float16: back to the same bits."""

    def mix(tensors):
        for name in tensors:
            if 'v_proj' in name:
                tensors[name] = tensors[name].astype(np.float16)
            elif 'norm' not in name:
                tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)

    rewrite(folder, mix)
    model = load_huggingface(folder)
    assert model.layers.mlp.up.weight.dtype == jnp.bfloat16
    assert model.layers.attention.v.weight.dtype == jnp.float16
    assert model.norm.weight.dtype == jnp.float32
    save_huggingface(model, tmp_path / 'out')
    assert_same_bits(stored(tmp_path / 'out'), stored(folder))


def test_layers_of_several_dtypes_take_the_one_that_holds_them(folder):
    rewrite(folder, lambda t: t.update({UP: t[UP].astype(ml_dtypes.bfloat16)}))
    up = load_huggingface(folder).layers.mlp.up.weight
    assert up.dtype == jnp.float32
    np.testing.assert_array_equal(up[1], stored(folder)[UP].astype(np.float32).T)


def test_float64_is_read_only_where_a_dtype_is_asked_for(folder):
    rewrite(folder, lambda t: t.update({UP: t[UP].astype(np.float64)}))
    with pytest.raises(InputError, match=f'float64, ask for dtype=float32: {UP}'):
        load_huggingface(folder)
    assert load_huggingface(folder, dtype=jnp.float32).layers.mlp.up.weight.dtype == jnp.float32


# ------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize('shape', [None, (4, 2)])
def test_round_trip_bit_for_bit_in_shards(saved, tmp_path, shape):
    mesh = None if shape is None else make_mesh(*shape)
    save_huggingface(load_huggingface(saved, mesh=mesh), tmp_path / 'out', max_shard_bytes=20_000)
    index = json.loads((tmp_path / 'out/model.safetensors.index.json').read_text())
    files = sorted(tmp_path.glob('out/*.safetensors'))
    assert len(files) > 3
    assert files[0].name == f'model-00001-of-{len(files):05d}.safetensors'
    assert_same_bits(stored(tmp_path / 'out'), stored(saved))
    for file in files:
        names = load_file(file).keys()
        assert {name for name, at in index['weight_map'].items() if at == file.name} == names
        assert sum(a.nbytes for a in load_file(file).values()) <= 20_000
    assert index['metadata']['total_size'] == sum(a.nbytes for a in stored(saved).values())
    again = load_huggingface(tmp_path / 'out')
    save_huggingface(again, tmp_path / 'single')
    assert_same_bits(stored(tmp_path / 'single'), stored(saved))


@pytest.mark.parametrize('tied', [False, True])
def test_transformers_loads_a_changed_model(tmp_path, tied):
    """Every parameter is changed here, saved, and computes there what it computes here."""
    config = dataclasses.replace(SMALL, num_layers=2, tie_embeddings=tied, head_dim=12)
    random_torch_llama(config).save_pretrained(tmp_path / 'in')
    model = load_huggingface(tmp_path / 'in')
    rng = np.random.default_rng(0)
    changed = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype('f'), model)
    save_huggingface(changed, tmp_path / 'out')
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
    assert theirs.dtype == torch.float32
    assert (theirs.lm_head.weight is theirs.model.embed_tokens.weight) == tied
    assert ('lm_head.weight' in stored(tmp_path / 'out')) == (not tied)
    tokens = rng.integers(0, config.vocab_size, (2, 9))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    logits = jax.jit(lambda model: model(tokens)[0])(changed)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_tokenizer_generation_files_and_special_tokens_come_along(saved, tmp_path):
    source = shutil.copytree(saved, tmp_path / 'source')
    tokenizer = build_arithmetic_tokenizer(20)
    save_tokenizer(tokenizer, source)
    (source / 'generation_config.json').write_text('{"temperature": 0.5, "do_sample": true}')
    fields = json.loads((source / 'config.json').read_text())
    (source / 'config.json').write_text(json.dumps(fields | {'eos_token_id': [5, 6]}))
    (source / 'notes.txt').write_text('not part of a checkpoint')
    target = tmp_path / 'new' / 'target'
    save_huggingface(load_huggingface(saved), target, tokenizer_from=source)
    loaded = transformers.AutoTokenizer.from_pretrained(target)
    assert loaded('3+4=')['input_ids'] == tokenizer('3+4=')['input_ids']
    generation = transformers.GenerationConfig.from_pretrained(target)
    assert generation.temperature == 0.5
    assert json.loads((target / 'config.json').read_text())['eos_token_id'] == [5, 6]
    assert not (target / 'notes.txt').exists()
    with pytest.raises(InputError, match='holds no tokenizer'):
        save_huggingface(load_huggingface(saved), tmp_path / 'other', tokenizer_from=saved)
    assert not (tmp_path / 'other').exists()


def test_an_existing_folder_is_never_overwritten(saved, folder, tmp_path):
    model = load_huggingface(saved)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError, match='exists and is not empty: name another folder'):
        save_huggingface(model, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (tmp_path / 'empty').mkdir()
    save_huggingface(model, tmp_path / 'empty')
    assert_same_bits(stored(tmp_path / 'empty'), stored(saved))


def test_a_bucket_gets_the_config_last(saved, tmp_path, monkeypatch):
    remote = lambda path: 'bucket' in str(path)
    monkeypatch.setattr(huggingface_export, 'is_remote', remote)
    monkeypatch.setattr(buckets, 'is_remote', remote)
    monkeypatch.setattr(buckets, 'check_client', lambda path: None)
    monkeypatch.setattr(target_folder, 'check_client', lambda path: None)
    save_huggingface(load_huggingface(saved), tmp_path / 'bucket' / 'out', max_shard_bytes=50_000)
    assert_same_bits(stored(tmp_path / 'bucket' / 'out'), stored(saved))
    files = sorted((tmp_path / 'bucket' / 'out').iterdir(), key=lambda f: f.stat().st_mtime_ns)
    assert files[-1].name == 'config.json'


def test_a_full_disk_leaves_nothing_under_the_name(saved, tmp_path):
    """The limit on the size of a file fails a write in the middle, as a full disk does."""
    model = load_huggingface(saved)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(InputError, match=r'could not be written .*nothing was left under'):
            save_huggingface(model, tmp_path / 'out', max_shard_bytes=25_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_noticed_before_writing(saved, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(InputError, match=r'needs [\d,]+ bytes and the disk of .* has 1,000 left'):
        save_huggingface(load_huggingface(saved), tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- bad input


def test_every_mismatch_is_named_at_once(folder):
    def spoil(tensors):
        del tensors['model.norm.weight']
        for layer in (0, 1, 2):
            del tensors[f'model.layers.{layer}.self_attn.q_proj.weight']
        tensors[UP] = tensors[UP].T.copy()
        tensors['model.layers.0.mlp.gate_proj.weight'] = np.zeros((4, 4), np.int8)
        tensors['model.layers.0.self_attn.q_proj.bias'] = np.zeros(32, 'f')

    rewrite(folder, spoil)
    with pytest.raises(InputError) as caught:
        load_huggingface(folder)
    message = str(caught.value)
    assert '\n' not in message
    for part in (
        str(folder),
        'missing: model.layers.{0-2}.self_attn.q_proj.weight, model.norm.weight',
        'not part of the model: model.layers.0.self_attn.q_proj.bias',
        f'{UP} has (32, 48), the config asks for (48, 32)',
        'model.layers.0.mlp.gate_proj.weight (I8)',
    ):
        assert part in message


def test_truncated_file(folder):
    file = folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r'model.safetensors .* is truncated .*fetch it again'):
        load_huggingface(folder)


def test_index_that_names_a_missing_file(folder):
    weight_map = dict.fromkeys(stored(folder), 'model.safetensors')
    weight_map['model.norm.weight'] = 'model-00002-of-00002.safetensors'
    index = folder / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': weight_map}))
    with pytest.raises(
        InputError, match=r'names model-00002-of-00002.safetensors, which the folder'
    ):
        load_huggingface(folder)
    index.write_text('{"weight_map": {')
    with pytest.raises(InputError, match='is no index of safetensors files'):
        load_huggingface(folder)
    del weight_map['model.norm.weight']
    index.write_text(json.dumps({'weight_map': weight_map}))
    with pytest.raises(InputError, match=r'disagree about model.norm.weight'):
        load_huggingface(folder)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(folder, value):
    def spoil(tensors):
        tensors[UP] = tensors[UP].copy()
        tensors[UP][3, 4] = value

    rewrite(folder, spoil)
    with pytest.warns(UserWarning, match=f'NaN or infinite weights in {UP}$'):
        model = load_huggingface(folder, mesh=make_mesh(4, 2))
    assert not np.isfinite(model.layers.mlp.up.weight[1, 4, 3])


def test_pickle_checkpoints_are_refused(folder):
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    with pytest.raises(InputError) as caught:
        load_huggingface(folder)
    for part in ('pytorch_model.bin', 'can run any code', 'save_pretrained'):
        assert part in str(caught.value)
    (folder / 'pytorch_model.bin').unlink()
    with pytest.raises(InputError, match=r'holds neither model.safetensors nor'):
        load_huggingface(folder)


def test_a_folder_without_a_config(folder, tmp_path):
    (folder / 'config.json').write_text('{')
    with pytest.raises(InputError, match=r'config.json is no config of a model: no JSON'):
        load_huggingface(folder)
    (folder / 'config.json').unlink()
    with pytest.raises(InputError, match=f'{folder} holds no config.json'):
        load_huggingface(folder)
    with pytest.raises(InputError, match=r'there is no folder .*absent'):
        load_huggingface(tmp_path / 'absent')


def test_tied_checkpoints_may_store_their_head_if_it_is_the_embedding(tmp_path):
    config = dataclasses.replace(SMALL, num_layers=1, tie_embeddings=True)
    random_torch_llama(config).save_pretrained(tmp_path)
    extra = {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(4, 'f')}
    head = stored(tmp_path)['model.embed_tokens.weight'].copy()
    rewrite(tmp_path, lambda t: t.update(extra | {'lm_head.weight': head}))
    assert not hasattr(load_huggingface(tmp_path), 'lm_head')
    head[5, 6] += 1
    rewrite(tmp_path, lambda t: t.update({'lm_head.weight': head}))
    with pytest.raises(InputError, match=r'not part of the model: lm_head.weight .*differs'):
        load_huggingface(tmp_path)
