import json

import jax
import numpy as np
import pytest
import torch
from torch_llama import SMALL, random_torch_llama

from cdjax.errors import InputError
from cdjax.models import load_huggingface
from cdjax.models.parity import (
    DTYPES,
    describe_certificate,
    load_reference,
    measure_parity,
    parity_tokens,
    save_reference,
    torch_reference,
    write_certificate,
)
from cdjax.run.folder import VERSION


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp('parity') / 'model'
    random_torch_llama(SMALL).save_pretrained(folder)
    return load_huggingface(folder), torch_reference(folder, parity_tokens(SMALL)), folder


def test_reference_is_what_transformers_computes(setting):
    _, reference, _ = setting
    model = random_torch_llama(SMALL)
    inputs = []
    model.model.layers[2].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        logits = model(torch.tensor(reference.tokens)).logits
    assert reference.tokens.shape == (2, 128)
    assert len(np.unique(reference.tokens)) > 80  # of 96: the whole vocabulary takes part
    np.testing.assert_allclose(reference.logits['float32'], logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reference.residual['float32'][2], inputs[0], rtol=1e-5, atol=1e-5)
    gap = reference.logits['bfloat16'] - reference.logits['float32']
    assert 1e-3 < np.abs(gap).max() / np.abs(logits.numpy()).max() < 0.1
    assert reference.source.startswith('transformers 5')


def test_an_equal_model_is_certified(setting, tmp_path):
    model, reference, _ = setting
    measured = measure_parity(model, reference)
    assert measured['equal']
    assert max(measured['float32']['worst'].values()) <= 1e-5
    # Our own drift in bfloat16 is real, and no larger than torch's.
    drift = measured['bfloat16']['logits']['token']
    assert 1e-3 < drift <= 1.1 * measured['bfloat16']['reference_drift']['logits']['token']
    for dtype in DTYPES:
        assert len(measured[dtype]['layers']) == SMALL.num_layers
    write_certificate(tmp_path / 'sub' / 'parity.json', {'load': measured, 'export': measured})
    written = json.loads((tmp_path / 'sub' / 'parity.json').read_text())
    assert written == {
        'version': VERSION,
        'equal': True,
        'stages': {'load': measured, 'export': measured},
    }
    verdict, *lines = describe_certificate(tmp_path / 'sub' / 'parity.json').splitlines()
    assert verdict == f'{tmp_path}/sub/parity.json: equal'
    assert len(lines) == 4
    drift = f'{measured["float32"]["worst"]["logits"]:.2g}'
    assert lines[2].startswith(f'  export, float32: logits {drift} (limit 1e-05), residual ')


def test_drift_is_what_it_says(setting):
    """One entry of the reference moved by a known amount shows as that amount, at its layer."""
    model, reference, _ = setting
    residual = reference.residual['float32'].copy()
    scale = np.abs(residual[1]).max()
    at = np.unravel_index(np.abs(residual[1]).argmin(), residual[1].shape)
    residual[1][at] += 0.25 * scale
    moved = {**reference.residual, 'float32': residual}
    measured = measure_parity(model, type(reference)(**{**vars(reference), 'residual': moved}))
    layers = [layer['max'] for layer in measured['float32']['layers']]
    assert layers[1] == pytest.approx(0.25, rel=1e-3)
    assert max(layers[0], layers[2]) < 1e-5
    assert not measured['equal']


@pytest.mark.parametrize(('tokens', 'equal'), [(2, True), (3, False)])
def test_logits_of_one_token_in_a_hundred_may_be_elsewhere(setting, tokens, equal):
    model, reference, _ = setting
    logits = reference.logits['float32'].copy()
    logits[0, :tokens] += 1
    moved = {**reference.logits, 'float32': logits}
    measured = measure_parity(model, type(reference)(**{**vars(reference), 'logits': moved}))
    assert measured['float32']['logits']['max'] > 0.1
    assert measured['float32']['equal'] is equal


def with_bfloat16(reference, change):
    """A reference whose bfloat16 results are changed: `change(float32, bfloat16)`."""
    both = {
        name: {**arrays, 'bfloat16': change(arrays['float32'], arrays['bfloat16'])}
        for name, arrays in (('logits', reference.logits), ('residual', reference.residual))
    }
    return type(reference)(reference.source, reference.tokens, **both)


def test_bfloat16_is_held_to_the_references_own_drift(setting, tmp_path):
    model, reference, _ = setting
    worst = measure_parity(model, reference)['bfloat16']['worst']
    halved = with_bfloat16(reference, lambda exact, rounded: exact + (rounded - exact) / 2)
    measured = measure_parity(model, halved)
    for name in worst:
        assert measured['bfloat16']['worst'][name] == pytest.approx(2 * worst[name], rel=1e-5)
    with pytest.raises(InputError, match=r'parity refused at load in bfloat16: the drift of the'):
        write_certificate(tmp_path / 'parity.json', {'load': measured})


def test_no_single_token_decides_in_bfloat16(setting):
    """A reference that is right by luck, or far off, at one token of 256."""
    model, reference, _ = setting
    worst = measure_parity(model, reference)['bfloat16']['worst']['residual']
    for factor in (1e-3, 1e3):

        def change(exact, rounded, factor=factor):
            out = rounded.copy()
            out[..., 1, 3, :] = exact[..., 1, 3, :] + factor * (rounded - exact)[..., 1, 3, :]
            return out

        found = measure_parity(model, with_bfloat16(reference, change))['bfloat16']['worst']
        assert found['residual'] == pytest.approx(worst * factor ** (-1 / 256), rel=1e-2)


@pytest.mark.parametrize('fault', ['neuron', 'nan'])
def test_a_model_that_differs_is_refused_and_the_file_says_where(setting, tmp_path, fault):
    model, reference, _ = setting
    broken = jax.tree.map(lambda x: x, model)
    down = broken.layers.mlp.down.weight
    factor = 1.01 if fault == 'neuron' else np.nan
    down[...] = down[...].at[1, 7].multiply(factor)  # one neuron of the second of three layers
    measured = measure_parity(broken, reference)
    path = tmp_path / 'parity.json'
    with pytest.raises(
        InputError,
        match=r'parity refused at load in float32: the drift of the logits .*parity.json',
    ):
        write_certificate(path, {'load': measured})
    body = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert not body['equal']
    assert describe_certificate(path).startswith(f'{path}: not equal\n  load, float32: logits ')
    first, second, third = [x['max'] for x in body['stages']['load']['float32']['layers']]
    assert max(first, second) < 1e-5 < third  # a layer's input; the fault is in the second layer


def test_golden_file(setting, tmp_path):
    model, reference, _ = setting
    # Views of other strides, which safetensors alone would write in the wrong order.
    views = {
        name: {dtype: np.asfortranarray(array) for dtype, array in getattr(reference, name).items()}
        for name in ('logits', 'residual')
    }
    tokens = np.asfortranarray(reference.tokens)
    save_reference(
        type(reference)(reference.source, tokens, **views), tmp_path / 'golden.safetensors'
    )
    again = load_reference(tmp_path / 'golden.safetensors')
    assert again.source == reference.source
    assert measure_parity(model, again) == measure_parity(model, reference)
    (tmp_path / 'text').write_text('golden')
    with pytest.raises(InputError, match=r'the golden file .*text/golden could not be written'):
        save_reference(reference, tmp_path / 'text' / 'golden')
    with pytest.raises(InputError, match='absent is no golden file'):
        load_reference(tmp_path / 'absent')
    with pytest.raises(InputError, match='text is no golden file'):
        load_reference(tmp_path / 'text')


def test_a_reference_of_another_model_is_refused(setting):
    model, reference, _ = setting
    residual = {dtype: x[:2] for dtype, x in reference.residual.items()}
    with pytest.raises(InputError, match='is of another model'):
        measure_parity(model, type(reference)(**{**vars(reference), 'residual': residual}))


def test_without_torch_a_golden_file_is_offered(setting, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'torch', None)
    with pytest.raises(InputError, match=r'pip install torch, or compare with a golden file'):
        torch_reference(setting[2], parity_tokens(SMALL))
