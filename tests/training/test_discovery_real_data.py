"""Discovery where prompts and answers have several lengths, and what of it lies on the host."""

import math

import numpy as np
import pytest
import toy_study as toy

from cdjax.data import ArithmeticTask
from cdjax.errors import InputError
from cdjax.inference import rows as rows_module
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.run.options import RunOptions
from cdjax.training import discovery_config
from cdjax.training.discovery import DiscoveryConfig, check_discovery, discover
from cdjax.training.language_model import LanguageModelConfig, train_language_model
from cdjax.training.objectives import AnySize, FixedDensity
from cdjax.training.optimizer import OptimizerConfig

TASK = ArithmeticTask(
    ('+',), 2, 7, 23, answer_tokens=3, several_lengths=True, shots=2, answer_end=' '
)
CONFIG = DiscoveryConfig(
    OptimizerConfig(3, 3e-2, warmup_steps=1),
    num_classes=1,
    objective=AnySize(density=0.2, smallest=0.05, sizes=4),
    batch_size=16,
    least_accuracy=0.0,
)
OPTIONS = RunOptions(check_gradients=False)


@pytest.fixture(scope='module')
def problems():
    return TASK.encode(toy.tokenizer())[::2]


def test_a_discovery_stores_nothing_that_it_does_not_read(problems, monkeypatch):
    """Of what passes to the host nothing has a number for each problem and token or neuron."""
    fetched, fetch = [], rows_module._fetch

    def noted(x):
        fetched.append(x.shape)
        return fetch(x)

    monkeypatch.setattr(rows_module, '_fetch', noted)
    rows = np.arange(0, len(problems), 2)
    options = {'mesh': toy.one_device(), 'options': OPTIONS}
    found, history = discover({'teacher': toy.model()}, problems, rows, CONFIG, **options)
    circuit, learned = found['teacher'], problems[rows]
    means = (toy.L, learned.tokens.shape[1], toy.F)
    np.testing.assert_array_equal(
        circuit.fill, neuron_means(toy.model(), learned, mesh=toy.one_device())
    )
    assert circuit.masks.sum() == round(0.2 * toy.L * toy.F)
    assert np.isfinite(history[-1]['loss'])
    answer = learned.answers.shape[1]
    assert means in fetched
    most = max((math.prod(shape[1:]) for shape in fetched if shape != means), default=0)
    answer = learned.answers.shape[1]
    assert most <= answer < len(toy.tokenizer()) < toy.L * toy.F


def test_logits_that_would_fill_the_host_are_asked_for_again(monkeypatch):
    shape, again = toy.teacher_config(), ()
    assert CONFIG.stores(shape, 137) == ('logits',)
    assert CONFIG.stores(shape, 137, answer_tokens=2) == again
    monkeypatch.setattr(discovery_config, 'STORED_BYTES', 4 * 136 * shape.vocab_size)
    assert CONFIG.stores(shape, 136) == ('logits',)
    assert CONFIG.stores(shape, 137) == again


def test_soft_masks_know_answers_of_one_token(problems):
    config = DiscoveryConfig(num_classes=2, objective=FixedDensity(), batch_size=16)
    shapes = {'teacher': toy.teacher_config()}
    with pytest.raises(InputError, match=r'objective=causal knows answers of one token.*up to 3'):
        check_discovery(shapes, problems, config, mesh=toy.one_device())


def test_a_model_learns_answers_of_several_tokens(problems):
    """And is right by the very measure that circuits are held to."""
    few = problems[:12]
    config = LanguageModelConfig(OptimizerConfig(60, 3e-2, warmup_steps=1), batch_size=12)
    model, history = train_language_model(
        toy.model(), few, config, mesh=toy.one_device(), options=OPTIONS
    )
    assert history[-1]['loss'] < 0.1 < history[0]['loss'] or history[-1]['accuracy'] == 1
    assert predict(model, few, mesh=toy.one_device()).accuracy == 1
