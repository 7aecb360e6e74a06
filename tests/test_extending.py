"""The modules of docs/extending.md, added from outside, are in a run's tables and report."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_study as toy
from launchers import run_launchers

from cdjax.circuits import Circuit
from cdjax.data import save_tokenizer
from cdjax.models import Llama, save_huggingface

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'extending.md').read_text()
MODULES = dict(re.findall(r'```python\n# (my_\w+)\.py\n(.*?)```', PAGE, re.DOTALL))
PLUGINS = ('my_site', 'my_method', 'my_arm', 'my_reading', 'my_similarity', 'my_pairing')
PLUGINS += ('my_task', 'my_study', 'my_family')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder of the page's modules, beside a teacher of the smallest size."""
    folder = tmp_path_factory.mktemp('outside')
    for name, text in MODULES.items():
        (folder / f'{name}.py').write_text(text)
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    save_huggingface(toy.model(), folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    return folder


@pytest.fixture(scope='module')
def finished(folder):
    """The folder of a pipeline that was started with the page's flags, on the small teacher."""
    command = re.search(r'python -m experiments\.(pipeline.*?)\n```', PAGE, re.DOTALL)[1]
    flags = [
        *(*command.replace('\\\n', ' ').split(), f'--workdir={folder}/run'),
        *(f'--teacher={folder}/teacher', '--least_accuracy=0', '--num_classes=2'),
        *('--discovery_steps=2', '--discovery_batch_size=16', '--sizes_per_step=2'),
        *('--smallest_size=.05', '--density=.1', '--sizes=.1', '--evaluate_problems=16'),
        *('--steps=2', '--batch_size=16', '--rediscover=', '--nocheck_gradients'),
        *('--noareas', '--compilation_cache='),
    ]
    streams = folder / 'streams'
    streams.mkdir()
    done = run_launchers({'outside': flags}, streams, at_once=1, path=(folder,))['outside']
    assert done.code == 0, done.err[-3000:]
    return folder / 'run', done.out


def test_the_page_has_a_module_for_each_kind():
    assert set(MODULES) == set(PLUGINS)
    assert f'--plugins={",".join(PLUGINS)}' in PAGE


def test_what_is_added_is_in_the_results(finished):
    workdir, said = finished
    results = json.loads((workdir / 'results.json').read_text())
    config = json.loads((workdir / 'config.json').read_text())
    # Method: measured beside the circuits.
    assert results['circuits']['methods']['output_norm']['title'] == 'output norm'
    scores = Circuit.load(workdir / 'circuits' / 'method_output_norm').scores
    assert scores.shape == (2, toy.L, toy.F)
    # Task: 100 problems of two digits, without the known structure of arithmetic.
    assert results['data']['problems'] == 100
    assert results['data']['example'] == '0-0='
    # Arm and pairing: in the table of students.
    table = results['starts']['nothing']['table']
    assert [row['title'] for row in table] == ['KD', 'KD + CKA of the other neurons']
    assert config['layer_pairs'] == 'first'
    compared = config['arms']['alignment']
    assert (compared['reading'], compared['similarity']) == ('magnitudes', 'angles')
    # Family: what was studied, and what was trained by what was added.
    assert results['circuits']['family'] == 'Llama of GeluBlock'
    losses = np.array(results['starts']['nothing']['runs'][1]['losses'])
    assert (losses[:, 2] > 0).all()
    # Study, which edits the site.
    assert results['studies']['gates']['without'].keys() == {'layer 0', 'layer 1'}
    assert 'output norm' in said
    assert 'other neurons' in said


def test_what_is_added_is_in_the_report(finished):
    page = (finished[0] / 'report.html').read_text()
    for shown in (
        *('output norm', 'the largest output weights', '#aa3377'),
        *('all but the circuits', 'layers: first, RSA of angles of sizes of activations'),
        *('Problems such as <code>0-0=</code>', 'Llama of GeluBlock'),
        *('What gates are for', 'without the gates of layer 1'),
    ):
        assert shown in page, shown


def test_the_family_of_the_page_computes_what_it_says(folder, monkeypatch):
    spec = importlib.util.spec_from_file_location('my_family', folder / 'my_family.py')
    family = importlib.util.module_from_spec(spec)
    like = toy.model()
    monkeypatch.setattr(Llama, 'block', Llama.block)  # taken back afterwards
    spec.loader.exec_module(family)
    gelu = jax.eval_shape(lambda: family.GeluLlama(toy.teacher_config(), jax.random.key(0)))
    model = jax.tree.unflatten(jax.tree.structure(gelu), jax.tree.leaves(like))
    assert (model.family, like.family) == ('GeluLlama of GeluBlock', 'Llama')
    tokens = toy.dataset().tokens[:1]

    @jax.jit
    def found_and_by_hand(model):
        """Returns the first layer's neurons of one problem."""
        sites = ('residual', 'attention_out', 'neurons')
        at = model(tokens, capture=sites, logits_at=())[1]
        layer = jax.tree.map(lambda leaf: leaf[0], model.layers)
        y = layer.mlp_norm(at['residual'][0] + at['attention_out'][0])
        gate, up = y @ layer.mlp.gate.weight[...], y @ layer.mlp.up.weight[...]
        return at['neurons'][0], jax.nn.gelu(gate) * up

    np.testing.assert_allclose(*found_and_by_hand(model), rtol=1e-4, atol=1e-5)
