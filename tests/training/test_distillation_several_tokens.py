"""Distillation of answers of several tokens, held against each problem by itself."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.data import ArithmeticTask, batch_indices
from cdjax.data.encoding import NO_TOKEN
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS
from cdjax.distillation.interchange import patch_teacher
from cdjax.distillation.shards import stored_teacher
from cdjax.distillation.store import OnlineTeacher, TeacherStore, Wanted
from cdjax.errors import InputError
from cdjax.run.options import RunOptions
from cdjax.studies.arms import check_answers
from cdjax.training import distillation
from cdjax.training.distillation import DistillationConfig, distill, distillation_terms
from cdjax.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.usefixtures('one_step_a_dispatch')
# Numbers to 20 are one token, others a token for each digit; behind two solved examples.
TASK = ArithmeticTask(
    ('+', '-'), 2, 7, 33, answer_tokens=3, several_lengths=True, shots=2, answer_end=' '
)
N, T, TOP = 8, 2.0, 3
ALIGNED = Alignment(pairs=((1, 0),))
CIRCUITS = np.ones((1, toy.L, toy.F), bool)


@functools.cache
def problems():
    """Problems of which half have an answer of two tokens, half one of three."""
    whole = TASK.encode(toy.tokenizer())
    sizes = (whole.answers != NO_TOKEN).sum(1)
    return whole[np.concatenate([np.flatnonzero(sizes == size)[: N // 2] for size in (2, 3)])]


@functools.cache
def store():
    return TeacherStore.build(toy.model(), problems(), layers=(0,), mesh=toy.one_device())


def student():
    return toy.model(seed=1, student=True)


@jax.jit
def run_alone(model, tokens):
    logits, activations = model(tokens, capture=('neurons',))
    return logits[0], activations['neurons'][:, 0]


def alone(model):
    """Yields the logits of each answer's tokens `[A_n, V]`, the answer, and the neurons there."""
    data = problems()
    for n in range(N):
        own = [*data.prefix, *data.tokens.tokens[n, data.tokens.counted[n]].tolist()]
        answer = data.answers[n][data.answers[n] != NO_TOKEN]
        filled = own + [1] * (len(data.prefix) + data.tokens.shape[1] - len(own))
        logits, neurons = run_alone(model, np.array([filled]))
        at = slice(len(own) - len(answer), len(own))
        yield np.asarray(logits, np.float64)[at], answer, np.asarray(neurons)[:, at]


def log_softmax(logits):
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def by_hand(task):
    """The mean over problems of the mean over their tokens, one after the other, in float64."""
    losses = []
    for (said, answer, _), (taught, _, _) in zip(alone(student()), alone(toy.model()), strict=True):
        own = 0.0
        for s, t, token in zip(said, taught, answer, strict=True):
            if task == 'cross_entropy':
                own -= log_softmax(s)[token]
                continue
            q, p = log_softmax(s / T), log_softmax(t / T)
            if task == 'top_k':  # those, and all others as one
                kept = np.argsort(-p)[:TOP]
                rest = lambda x, kept=kept: np.log1p(-np.exp(x[kept]).sum())
                q, p = (np.append(x[kept], rest(x)) for x in (q, p))
            own += T**2 * (np.exp(p) * (p - q)).sum()
        losses.append(own / len(answer))
    return np.mean(losses)


def batch_of(taught, **more):
    data = problems()
    answered = data.answers != NO_TOKEN
    batch = {'tokens': data.tokens, 'lengths': data.lengths, 'answered': answered, **more}
    return batch if taught is None else batch | {'teacher_logits': taught}


@functools.cache
def terms(config, alignment=None):
    jitted = jax.jit(lambda *args: distillation_terms(*args, alignment, (), config)[1])
    return functools.partial(jitted, student())


@pytest.mark.parametrize('task', ['kd', 'cross_entropy'])
def test_every_token_of_an_answer_is_learned_behind_the_right_ones_before_it(task):
    config = DistillationConfig(task=task, temperature=T)
    labels = {'labels': np.maximum(problems().answers, 0)}
    taught = store().logits
    batch = batch_of(None, **labels) if task == 'cross_entropy' else batch_of(taught)
    assert float(terms(config)(batch)['task']) == pytest.approx(by_hand(task), rel=1e-4)
    if task == 'kd':
        # A token that an answer does not have takes no part, whatever stands there.
        missing = np.where(batch['answered'][..., None], taught, np.nan)
        assert terms(config)(batch_of(missing))['task'] == terms(config)(batch)['task']


@pytest.mark.parametrize('task', ['kd', 'cross_entropy'])
def test_a_batch_holds_every_token_of_its_problems(task, monkeypatch):
    seen, data = [], problems()

    def look(state, batch, *_):
        seen.append(jax.tree.map(np.asarray, batch))
        return state, {'loss': 0.0}

    monkeypatch.setattr(distillation, 'jit_step', lambda *_: look)
    config = DistillationConfig(OptimizerConfig(1), task=task, batch_size=5)
    options = {'mesh': toy.one_device(), 'options': RunOptions(check_gradients=False)}
    distill(student(), store(), data, config, **options)
    (batch,) = seen
    rows = batch_indices(np.arange(N), 5, seed=config.seed, step=0)
    np.testing.assert_array_equal(batch['tokens'].tokens, data.tokens.tokens[rows])
    np.testing.assert_array_equal(batch['answered'].sum(axis=1), 2 + (rows >= N // 2))
    if task == 'kd':
        np.testing.assert_array_equal(batch['teacher_logits'], store().logits[rows])
        return
    answered = batch['answered']
    np.testing.assert_array_equal(batch['labels'][answered], data.answers[rows][answered])


def test_what_is_aligned_is_where_the_first_token_is_predicted():
    config = DistillationConfig(temperature=T)
    both = []
    for model, layer in ((toy.model(), 0), (student(), 1)):
        both.append(np.array([neurons[layer, 0] for _, _, neurons in alone(model)]))
    np.testing.assert_allclose(store().of_layers([0])[:, 0], both[0], rtol=1e-3, atol=1e-5)
    batch = batch_of(store().logits, teacher_activations=both[0][:, None])
    found = terms(config, ALIGNED)(batch)
    centred = [x - x.mean(0) for x in both]
    grams = [x @ x.T for x in centred]
    # Debiased CKA, U-centred: HSIC_1 of Song et al. (2012).
    for gram in grams:
        np.fill_diagonal(gram, 0)

    def hsic(k, m):
        total = np.trace(k @ m) + k.sum() * m.sum() / ((N - 1) * (N - 2))
        return total - 2 * (k @ m).sum() / (N - 2)

    cka = hsic(*grams) / np.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))
    assert float(found['alignment']) == pytest.approx(1 - cka, abs=1e-3)
    assert float(found['task']) == pytest.approx(by_hand('kd'), rel=1e-4)


def test_a_store_on_disk_and_a_teacher_that_is_asked_say_the_same(tmp_path):
    data, config = problems(), DistillationConfig(temperature=T)
    wanted, half = Wanted(layers=(), top_k=TOP, temperature=T), N // 2
    on_disk = stored_teacher(tmp_path / 'store', toy.model(), data, wanted, rows=half)
    online = OnlineTeacher.build(toy.model(), data, wanted)
    for teacher in (on_disk, online):
        assert teacher.answer_tokens == 3
        parts = [teacher.logits_of(np.arange(start, start + half)) for start in (0, half)]
        said = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        assert said.indices.shape == said.log_probabilities.shape == (N, 3, TOP)
        task = terms(config)(batch_of(said))['task']
        assert float(task) == pytest.approx(by_hand('top_k'), rel=1e-4)
    size = sum(file.stat().st_size for file in (tmp_path / 'store').glob('[il]*.npy'))
    held = N * 3 * TOP * 8  # of each token of each answer k float32 and as many int32
    assert held < size < held + 4 * 200
    single = dataclasses.replace(data, answers=data.answers[:, 0])
    with pytest.raises(InputError, match='is of answers of another number of tokens'):
        stored_teacher(tmp_path / 'store', toy.model(), single, wanted, rows=half)


def test_what_cannot_be_is_refused():
    data, mesh = problems(), toy.one_device()
    config = DistillationConfig(OptimizerConfig(1), batch_size=N)
    single = dataclasses.replace(store(), logits=store().logits[:, 0], answer_tokens=1)
    with pytest.raises(InputError, match=r'logits of 1.token of each answer.*answers of 3: store'):
        distill(student(), single, data, config, mesh=mesh)
    patches = Alignment(((1, 0),), np.zeros(N, int), CIRCUITS, CIRCUITS, similarity='interchange')
    one_line = r'compares what a patch makes of an answer of one token.*up to 3: leave it out, or'
    with pytest.raises(InputError, match=f'similarity=interchange {one_line}'):
        patch_teacher(toy.model(), data, patches, seed=0)
    for key, arm in ARMS.items():
        if not arm.patches:
            check_answers(('kd', key), ALIGNED, data)
            continue
        check_answers(('kd', key), ALIGNED, toy.dataset())
        with pytest.raises(InputError, match=f'{key} {one_line}'):
            check_answers(('kd', key), ALIGNED, data)
    check_answers(('kd', 'cross_entropy'), patches, data)
    with pytest.raises(InputError, match=f'similarity=interchange {one_line}'):
        check_answers(('kd', 'circuits'), patches, data)
