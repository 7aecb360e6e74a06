"""Padded rows, and rows behind a prefix, against the model on each row for itself."""

import functools

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.data.token_rows import TokenRows, align
from cdjax.models import Edit

PREFIX = (0, 7, 3, 9)
LENGTHS = (3, 5, 2, 5)


@functools.cache
def rows():
    """Four rows of 2 to 5 tokens."""
    rng = np.random.default_rng(0)
    return [rng.integers(3, 25, length).tolist() for length in LENGTHS]


def aligned(prefix=()):
    wide = np.full((4, len(prefix) + 5), 1, np.int32)
    for row, tokens in zip(wide, rows(), strict=True):
        row[: len(prefix) + len(tokens)] = [*prefix, *tokens]
    lengths = np.array(LENGTHS) + len(prefix)
    answers = np.full((4, 1), 2, np.int32)
    return align(wide, lengths, answers, np.ones(4, int), prefix=prefix)


@functools.cache
def fill():
    return np.random.default_rng(1).normal(size=(toy.L, 1, 5, toy.F)).astype(np.float32)


@jax.jit
def run(model, tokens, center, shift):
    edits = {'neurons': Edit(0.5, center=center), 'residual': Edit(shift=shift)}
    return model(tokens, edits=edits, capture=('neurons',), logits_at=-1)


def one_by_one(prefix=()):
    """Logits and activations of each row by itself; edits are of the row, not of the prefix.

    On the right, where nothing is ever seen, rows are filled up, so that all compile once.
    """
    P, columns = len(prefix), np.arange(len(prefix) + 5)
    call = jax.jit(lambda m, t, e, at: m(t, edits=e, capture=('neurons',), logits_at=at))
    shift = 0.1 * np.ones((1, 1, 1, 16), np.float32)
    for tokens in rows():
        n = len(tokens)
        center = np.pad(fill()[:, :, 5 - n :], [(0, 0), (0, 0), (P, 5 - n), (0, 0)])
        inside = (columns >= P) & (columns < P + n)
        edits = {
            'neurons': Edit(0.5, center=center, positions=inside),
            'residual': Edit(shift=shift, positions=inside),
        }
        row = np.array([[*prefix, *tokens, *[1] * (5 - n)]])
        logits, found = call(toy.model(), row, edits, np.array([P + n - 1]))
        yield logits[0], found['neurons'][:, 0, P : P + n]


@pytest.mark.parametrize('prefix', [(), PREFIX], ids=['padded', 'prefix'])
def test_rows_equal_each_row_by_itself(prefix):
    tokens = aligned(prefix)
    assert tokens.prefix == prefix
    assert tokens.shape == (4, 5)
    assert tokens.starts.tolist() == [2, 0, 3, 0]
    shift = 0.1 * np.ones((1, 1, 1, 16), np.float32)
    logits, found = run(toy.model(), tokens, fill(), shift)
    for b, (alone, neurons) in enumerate(one_by_one(prefix)):
        np.testing.assert_allclose(logits[b], alone, rtol=2e-5, atol=2e-5)
        own = np.asarray(found['neurons'])[:, b, tokens.counted[b]]
        np.testing.assert_allclose(own, neurons, rtol=2e-5, atol=2e-5)


def test_what_stands_outside_a_row_is_never_seen():
    """Other tokens there: not a bit changes, of the logits nor of a gradient."""
    tokens = aligned(PREFIX)
    other = np.where(tokens.counted, tokens.tokens, 11).astype(np.int32)
    assert (other != tokens.tokens).any()
    shift = np.zeros((toy.L, 4, 5, 16), np.float32)

    @jax.jit
    def found(model, tokens, shift):
        logits = lambda shift: run(model, tokens, fill(), shift)[0]
        return logits(shift), jax.grad(lambda s: logits(s)[:, 3].sum())(shift)

    changed = TokenRows(other, tokens.starts, tokens.stops, tokens.prefix)
    both = [found(toy.model(), t, shift) for t in (tokens, changed)]
    jax.tree.map(np.testing.assert_array_equal, *both)
    gradient = np.asarray(both[0][1])
    assert np.abs(gradient[:, tokens.counted]).min() > 0
    assert not gradient[:, ~tokens.counted].any()


def test_logits_at_several_columns():
    tokens = aligned()
    call = jax.jit(lambda m, t, at: m(t, logits_at=at)[0])
    everywhere = call(toy.model(), tokens, None)
    at = np.array([[3, 4]] * 4)
    np.testing.assert_allclose(call(toy.model(), tokens, at), everywhere[:, 3:], atol=1e-5)


def test_rows_of_one_length_stay_an_array():
    tokens = np.arange(12, dtype=np.int32).reshape(3, 4)
    plain = align(tokens, np.full(3, 4), np.ones((3, 1), np.int32), np.ones(3, int))
    assert isinstance(plain, np.ndarray)
    np.testing.assert_array_equal(plain, tokens)


def test_answers_follow_their_prompts():
    tokens = np.array([[5, 6, 1, 1], [5, 6, 7, 8]], np.int32)
    answers = np.array([[9, 10, 11], [12, -1, -1]], np.int32)
    found = align(tokens, np.array([2, 4]), answers, np.array([3, 1]))
    assert (
        found.tokens.tolist() == [[1, 1, 5, 6, 9, 10], [5, 6, 7, 8, 0, 0]]
        or (found.tokens[1, 4:] >= 0).all()
    )
    assert found.counted.tolist() == [[False] * 2 + [True] * 4, [True] * 4 + [False] * 2]


def test_a_prefix_costs_its_own_tokens_once():
    """The same logits as of whole prompts, at the products of `B T + P` positions."""
    B, P, T = 16, 24, 5
    rng = np.random.default_rng(2)
    prefix, questions = rng.integers(3, 25, P), rng.integers(3, 25, (B, T))
    whole = np.concatenate([np.tile(prefix, (B, 1)), questions], axis=1)
    every = np.full(B, T)
    rows = TokenRows(questions, 0 * every, every, tuple(prefix.tolist()))
    run = jax.jit(lambda m, t: m(t, logits_at=-1, capture=('neurons',)))
    programs = [run.lower(toy.model(), tokens).compile() for tokens in (whole, rows)]
    expected, of_whole = programs[0](toy.model(), whole)
    logits, of_rows = programs[1](toy.model(), rows)
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(
        of_rows['neurons'], of_whole['neurons'][:, :, P:], rtol=2e-5, atol=2e-5
    )
    flops = [program.cost_analysis()['flops'] for program in programs]
    positions = (B * T + P) / (B * (T + P))
    assert flops[1] / flops[0] < 1.1 * positions < 0.25
