"""Prompts of several lengths and answers of several tokens, behind solved examples.

Everything is held against each problem by itself: its own tokens, without padding, BOS and examples
in front, and the model run on that one row.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.classifier import Encoding
from cdjax.circuits.methods import ATP, Context
from cdjax.data import ArithmeticTask
from cdjax.data.encoding import NO_TOKEN
from cdjax.inference.encodings import encode
from cdjax.inference.means import neuron_deviations, neuron_means
from cdjax.inference.predictions import predict
from cdjax.inference.sweeps import predict_circuits
from cdjax.models import Edit
from cdjax.models.generation import generate
from cdjax.parallel.mesh import make_mesh

# Numbers to 20 are one token, others a token for each digit: prompts of 4 to 6 tokens.
TASK = ArithmeticTask(
    ('+', '-'), 2, 7, 33, answer_tokens=3, several_lengths=True, shots=2, answer_end=' '
)
N = 10


@functools.cache
def problems():
    """Ten problems of all lengths, of prompts and of answers."""
    whole = TASK.encode(toy.tokenizer())
    sizes = np.stack([whole.tokens.starts, (whole.answers != NO_TOKEN).sum(1)], axis=1)
    _, first = np.unique(sizes, axis=0, return_index=True)
    rest = np.random.default_rng(0).permutation(len(whole))[: N - len(first)]
    return whole[np.concatenate([first, rest])]


def rows_alone(dataset, tokens, answers):
    """Yields each row by itself, `[1, W]`, where in it the question is, and the answer's tokens.

    A row begins with the prefix; on the right, where nothing is ever seen, it is filled up, so that
    all compile once.
    """
    P, T = len(tokens.prefix), tokens.shape[1]
    for n in range(len(dataset)):
        own = tokens.tokens[n, tokens.counted[n]].tolist()
        row = [*tokens.prefix, *own, *[1] * (T - len(own))]
        yield np.array([row]), slice(P, P + len(own)), answers[n][answers[n] != NO_TOKEN]


def run_alone(model, tokens, keep=1.0, fill=0.0, inside=False):
    """With neurons of the positions inside that are not kept filled: one program for all."""
    full = lambda part: np.broadcast_to(np.float32(part), (toy.L, 1, tokens.shape[1], toy.F))
    inside = np.broadcast_to(inside, tokens.shape[1])
    return edited(model, tokens, Edit(full(keep), center=full(fill), positions=inside))


@jax.jit
def edited(model, tokens, edit):
    return model(tokens, edits={'neurons': edit}, capture=('neurons',))


@functools.cache
def clean():
    """Activations of each problem by itself, of the question and the answer, `[L, T', F]`."""
    data = problems()
    return [
        np.asarray(run_alone(toy.model(), tokens)[1]['neurons'])[:, 0, at]
        for tokens, at, _ in rows_alone(data, data.tokens, data.answers)
    ]


@functools.cache
def means():
    return neuron_means(toy.model(), problems(), mesh=toy.one_device())


def columns(n):
    return np.flatnonzero(problems().tokens.counted[n])


def test_the_problems_are_of_several_kinds():
    data = problems()
    assert len(set(data.tokens.starts)) == 3
    assert set((data.answers != NO_TOKEN).sum(1)) == {2, 3}
    text = toy.tokenizer().decode
    assert text(data.prefix[1:]) == TASK.prefix
    assert TASK.prefix.count('=') == 2
    for prompt, (tokens, at, answer) in zip(
        data.prompts, rows_alone(data, data.tokens, data.answers), strict=True
    ):
        question = prompt.removeprefix(TASK.prefix)
        assert text([*tokens[0, at], answer[-1]]) == question + text(answer)
        left, operator, right = re.match(r'(\d+)(.)(\d+)=$', question).groups()
        assert text(answer) == f'{int(left) + int(operator + right)} '
        assert question not in TASK.prefix


def test_counterfactuals_are_of_the_same_lengths():
    data = problems()
    for name in ('starts', 'stops'):
        ours, theirs = (getattr(t, name) for t in (data.tokens, data.counterfactual_tokens))
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(data.answers < 0, data.counterfactual_answers < 0)
    assert (data.answers != data.counterfactual_answers).any(axis=1).all()


def test_means_are_by_position_from_the_answer():
    whole = []
    for n, neurons in enumerate(clean()):
        row = np.full((toy.L, problems().tokens.shape[1], toy.F), np.nan)
        row[:, columns(n)] = neurons
        whole.append(row)
    whole = np.stack(whole)
    np.testing.assert_allclose(means(), np.nanmean(whole, axis=0), rtol=1e-4, atol=1e-5)
    deviations = neuron_deviations(toy.model(), problems(), means(), tokens_per_pass=30)
    np.testing.assert_allclose(deviations, np.nanstd(whole, axis=0), rtol=1e-3, atol=1e-5)


def expected(masks, fills):
    """Correctness, logit difference and probability by one problem after the other."""
    data = problems()
    for n, (tokens, at, answer) in enumerate(rows_alone(data, data.tokens, data.answers)):
        edit = ()
        if masks is not None:
            inside = np.zeros(tokens.shape[1], bool)
            inside[at] = True
            fill = np.zeros((toy.L, 1, tokens.shape[1], toy.F), np.float32)
            fill[:, 0, at] = fills[n]
            keep = masks[:, None, None].astype(np.float32)
            edit = (keep, fill, inside)
        logits = np.asarray(run_alone(toy.model(), tokens, *edit)[0][0], np.float64)
        logits = logits[at][-len(answer) :]
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        token = np.arange(len(answer))
        other = data.counterfactual_answers[n][: len(answer)]
        yield (
            (logits.argmax(axis=1) == answer).all(),
            (logits[token, answer] - logits[token, other]).sum(),
            np.exp(log_p[token, answer].sum()),
        )


def assert_predicts(found, rows):
    correct, difference, probability = map(np.array, zip(*rows, strict=True))
    np.testing.assert_array_equal(found.correct, correct)
    np.testing.assert_allclose(found.logit_difference, difference, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.probability, probability, rtol=1e-3, atol=1e-9)


def test_answers_of_the_whole_model():
    found = predict(toy.model(), problems(), mesh=toy.one_device())
    assert_predicts(found, expected(None, None))
    assert found.tokens.shape == problems().answers.shape


MASK = np.random.default_rng(3).random((toy.L, toy.F)) < 0.5


@pytest.mark.parametrize('ablation', ['zero', 'mean', 'counterfactual'])
def test_answers_of_a_circuit(ablation):
    """The prefix is as the whole model has it; the circuit acts from the question on."""
    data = problems()
    fills = [means()[:, columns(n)] for n in range(N)]
    if ablation == 'zero':
        fills = [np.zeros_like(fill) for fill in fills]
    elif ablation == 'counterfactual':
        others = rows_alone(data, data.counterfactual_tokens, data.counterfactual_answers)
        fills = [
            np.asarray(run_alone(toy.model(), tokens)[1]['neurons'])[:, 0, at]
            for tokens, at, _ in others
        ]
    options = {'fill': means(), 'mesh': toy.one_device()}
    found = predict(toy.model(), data, masks=MASK[None], ablation=ablation, **options)
    wanted = list(expected(MASK, fills))
    assert_predicts(found, wanted)
    if ablation == 'mean':
        (swept,) = predict_circuits(toy.model(), data, MASK[None, None], **options)
        assert_predicts(swept, wanted)


def test_eight_devices_agree_with_one():
    mesh = make_mesh(4, 2)
    options = {'masks': MASK[None], 'fill': means()}
    one = predict(toy.model(), problems(), mesh=toy.one_device(), **options)
    several = predict(toy.model(mesh), problems(), mesh=mesh, **options)
    np.testing.assert_allclose(several.logit_difference, one.logit_difference, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(several.probability, one.probability, rtol=1e-3, atol=1e-9)


def test_right_is_what_greedy_generation_writes():
    """A model made to answer some: its answers are whatever it writes for every other problem."""
    data = problems()
    written, most = [], data.answers.shape[1]
    for tokens, at, answer in rows_alone(data, data.tokens, data.answers):
        end = at.stop - len(answer) + 1
        new = generate(toy.model(), tokens, np.array([end]), max_new_tokens=most)
        written.append(np.asarray(new[0])[: len(answer)])
    answers = data.answers.copy()
    tokens = data.tokens.tokens.copy()
    end = data.prompt_columns
    for n in range(0, N, 2):
        answers[n, : len(written[n])] = written[n]
        tokens[n, end : end + len(written[n]) - 1] = written[n][:-1]
    changed = dataclasses.replace(
        data, answers=answers, tokens=dataclasses.replace(data.tokens, tokens=tokens)
    )
    found = predict(toy.model(), changed, mesh=toy.one_device())
    wanted = [written[n].tolist() == answers[n][answers[n] != NO_TOKEN].tolist() for n in range(N)]
    assert found.correct.tolist() == wanted
    assert sum(wanted) >= N // 2


def test_the_encoding_reads_no_answer_and_no_padding():
    data = problems()
    found = encode(toy.model(), data, Encoding(), mesh=toy.one_device())
    end, d = data.prompt_columns, toy.teacher_config().hidden_size
    table = np.asarray(toy.model().embed.weight[...])
    by_hand = np.where(
        data.tokens.counted[:, :end, None], table[data.tokens.tokens[:, :end]], 0
    ).reshape(N, -1)
    np.testing.assert_array_equal(found, by_hand)
    last = encode(toy.model(), data, Encoding(positions=(-1, -2)), mesh=toy.one_device())
    np.testing.assert_array_equal(
        last, np.concatenate([by_hand[:, -d:], by_hand[:, -2 * d : -d]], axis=1)
    )


def test_attribution_of_answers_of_several_tokens():
    """AtP by one problem after the other, its gradient by shifts of zeros at the row alone."""
    data = problems()
    context = Context(fill=means(), mesh=toy.one_device())
    found = ATP.scores(toy.model(), data, np.arange(N), np.zeros(N, int), context=context)[0]

    @jax.jit
    @jax.grad
    def gradient(shift, tokens, columns, answer, other):
        logits = toy.model()(tokens, edits={'neurons': Edit(shift=shift)})[0][0, columns]
        token = jnp.arange(len(answer))
        parts = logits[token, answer] - logits[token, other]
        return jnp.where(answer >= 0, parts, 0).sum()

    effects = []
    for n, (tokens, at, answer) in enumerate(rows_alone(data, data.tokens, data.answers)):
        zeros = np.zeros((toy.L, 1, tokens.shape[1], toy.F), np.float32)
        columns_A = at.stop - len(answer) + np.arange(data.answers.shape[1])
        of_row = data.answers[n], data.counterfactual_answers[n]
        slopes = np.asarray(gradient(zeros, tokens, columns_A, *of_row))[:, 0, at]
        removed = clean()[n] - means()[:, columns(n)]
        effects.append(np.abs((removed * slopes).sum(axis=1)))
    np.testing.assert_allclose(found, np.mean(effects, axis=0), rtol=2e-3, atol=1e-5)
