import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.run.options import RunOptions
from cdjax.training import language_model
from cdjax.training.language_model import LanguageModelConfig, train_language_model
from cdjax.training.optimizer import OptimizerConfig
from cdjax.training.step import jit_step

pytestmark = pytest.mark.usefixtures('one_step_a_dispatch')

CONFIG = LanguageModelConfig(OptimizerConfig(40, 1e-2, warmup_steps=4), batch_size=64)


class Recorder:
    """Keeps what goes into a training, and what its first step says."""

    def __init__(self):
        self.first_model = self.jitted = None
        self.batches, self.metrics, self.accuracies = [], [], []

    def jit_step(self, step, state):
        self.jitted = jit_step(step, state)

        def recorded(state, batch):
            if self.first_model is None:
                self.first_model = jax.tree.map(jnp.copy, state.params)
            self.batches.append(jax.tree.map(np.asarray, batch))
            state, metrics = self.jitted(state, batch)
            self.metrics.append(metrics)
            return state, metrics

        return recorded

    def evaluate(self, model):
        self.accuracies.append(accuracy(model))
        return {'accuracy': self.accuracies[-1]}


def accuracy(model):
    return predict(model, toy.dataset(), mesh=toy.one_device()).accuracy


@pytest.fixture(scope='module')
def trained():
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_model, 'jit_step', recorder.jit_step)
        model, history = train_language_model(
            toy.teacher_config(),
            toy.dataset(),
            CONFIG,
            mesh=toy.one_device(),
            evaluate=recorder.evaluate,
            evaluate_every=20,
            options=RunOptions(diagnose_every=30),
        )
    return model, history, recorder


def test_the_step_compiles_once(trained):
    assert trained[2].jitted._cache_size() == 1


@pytest.mark.parametrize(
    ('start', 'starts'),
    [(toy.teacher_config, 'init'), (toy.model, 'start')],
    ids=['shape', 'model'],
)
def test_models_of_other_seeds_start_and_run_under_one_compilation(start, starts):
    before = [toy.compilations(name) for name in ('step', starts)]
    given = start()
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(2), batch_size=16)
    one, other = (
        train_language_model(
            given,
            toy.dataset(),
            dataclasses.replace(config, seed=seed),
            mesh=toy.one_device(),
            options=RunOptions(check_gradients=False),
        )[0]
        for seed in range(2)
    )
    after = [toy.compilations(name) for name in ('step', starts)]
    assert [n - m for n, m in zip(after, before, strict=True)] == [1, 1]
    assert not np.array_equal(one.embed.weight[...], other.embed.weight[...])


def test_it_learns_and_evaluates(trained):
    model, history, recorder = trained
    losses = [point['loss'] for point in history if 'loss' in point]
    assert losses[-1] < 0.8 * losses[0]
    logged = [p['evaluation/accuracy'] for p in history if 'evaluation/accuracy' in p]
    assert logged == recorder.accuracies
    assert len(logged) == 2
    assert accuracy(model) == logged[-1] > 1.5 / 19


def test_the_gradient_doctor_looks_at_the_start_and_on_request(trained):
    _, history, recorder = trained
    reports = {p['step']: p for p in history if 'diagnostics/loss/value' in p}
    assert list(reports) == [0, 30]
    metrics = recorder.metrics[0]  # of the same parameters and the same batch
    assert reports[0]['diagnostics/loss/value'] == pytest.approx(float(metrics['loss']), rel=1e-5)
    norm = float(metrics['gradient'])
    assert reports[0]['diagnostics/loss/gradient'] == pytest.approx(norm, rel=1e-4)
    assert reports[0]['diagnostics/loss/gradient/layers'] < norm


def test_answers_are_those_of_the_prompts(trained):
    data = toy.dataset()
    answer_of = {tuple(t): a for t, a in zip(data.tokens, data.answers, strict=True)}
    for batch in trained[2].batches:
        answers = [answer_of[tuple(tokens)] for tokens in batch['tokens']]
        np.testing.assert_array_equal(batch['answers'], answers)


def test_the_first_step_by_hand(trained):
    recorder = trained[2]
    batch, metrics = recorder.batches[0], recorder.metrics[0]
    logits = jax.jit(lambda m, t: m(t, logits_at=-1)[0])(recorder.first_model, batch['tokens'])
    logits = np.asarray(logits, np.float64)
    losses = [
        np.log(np.exp(row).sum()) - row[answer]
        for row, answer in zip(logits, batch['answers'], strict=True)
    ]
    assert float(metrics['loss']) == pytest.approx(np.mean(losses), rel=1e-5)
    right = np.mean(logits.argmax(-1) == batch['answers'])
    assert float(metrics['accuracy']) == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [({'batch_size': 0}, 'batch_size=0'), ({'seed': -2}, 'seed=-2 must not be negative')],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)
