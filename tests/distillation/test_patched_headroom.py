"""How alike patched answers are: by hand, and of a teacher whose circuits are patched."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.interchange import Interchange, patch_teacher
from cdjax.distillation.patched_headroom import (
    PROBLEMS,
    alike_patches,
    compare_answers,
    jensen_shannon,
    patched_headroom,
    softened,
    some_problems,
)
from cdjax.losses import TopKLogits

RNG = np.random.default_rng(0)
N, V = 6, 5


def distributions():
    return RNG.dirichlet(np.ones(V), size=N)


def one_hot(*tokens):
    return np.eye(V)[list(tokens)]


def test_the_divergence_is_that_of_its_definition_and_symmetric():
    p, q = distributions(), distributions()
    p[0, 2] = q[1, 3] = q[2, 4] = p[2, 4] = 0
    entropy = lambda x: -sum(part * np.log2(part) for part in x if part > 0)
    expected = [
        entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2 for a, b in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(jensen_shannon(p, q), expected, atol=1e-12)
    np.testing.assert_array_equal(jensen_shannon(p, q), jensen_shannon(q, p))


def test_equal_answers_agree_and_those_without_a_common_token_do_not():
    plain = one_hot(0, 1, 2)
    same = compare_answers([plain, plain], [plain, plain], plain)
    assert same == {'agreement': 1, 'moved': 0, 'same': None}
    one, other = one_hot(1, 2, 3), one_hot(2, 3, 4)
    assert compare_answers([one], [other], plain) == {'agreement': 0, 'moved': 1, 'same': 0}
    # Of six pairs the first arm changes one, the other that and one more.
    some, more = one_hot(4, 1, 2), one_hot(4, 1, 0)
    found = compare_answers([plain, some], [plain, more], plain)
    assert found == {
        'agreement': pytest.approx(5 / 6),
        'moved': pytest.approx(2 / 6),
        'same': pytest.approx(1 / 2),
    }


def test_the_top_k_are_what_is_stored_and_the_rest_is_shared():
    logits = RNG.normal(size=(N, V)).astype(np.float32)
    whole = softened(logits, 2.0, V)
    np.testing.assert_allclose(whole, jax.nn.softmax(logits / 2), rtol=1e-6)
    every = TopKLogits.from_logits(logits, V, temperature=2.0)
    np.testing.assert_allclose(softened(every, 2.0, V), whole, rtol=1e-5)
    two = softened(TopKLogits.from_logits(logits, 2, temperature=2.0), 2.0, V)
    np.testing.assert_allclose(two.sum(axis=1), 1, rtol=1e-6)
    for found, row in zip(two, whole, strict=True):
        first, second, *others = np.argsort(-row)
        np.testing.assert_allclose(found[[first, second]], row[[first, second]], rtol=1e-5)
        np.testing.assert_allclose(found[others], row[others].mean(), rtol=1e-4)


DATA = toy.dataset()[:40]
MASKS = RNG.random((2, toy.L, toy.F)) < 0.4
ALIGNED = Alignment(
    ((0, 0), (1, 1)), DATA.labels['operators'], MASKS, MASKS[:, :, :16], similarity='interchange'
)


@pytest.mark.parametrize('top_k', [None, (3, 2.0)])
def test_arms_that_patch_the_same_agree_and_those_that_patch_others_less(top_k):
    arms = {
        'one': ALIGNED,
        'again': dataclasses.replace(ALIGNED, teacher_masks=MASKS.copy()),
        'rest': dataclasses.replace(ALIGNED, teacher_masks=~MASKS),
        'nothing': dataclasses.replace(ALIGNED, teacher_masks=MASKS & False),
        'classes': dataclasses.replace(ALIGNED, classes=np.arange(40) % 2),
    }
    rows = np.array([3, 0, 17, 39])
    patched = {
        key: patch_teacher(toy.model(), DATA, one, seed=0, sources=2, top_k=top_k).of(rows)
        for key, one in arms.items()
    }
    plain = jax.jit(lambda: toy.model()(DATA.tokens[rows], logits_at=-1)[0])()
    if top_k is not None:
        plain = TopKLogits.from_logits(plain, top_k[0], temperature=top_k[1])
    vocab_size = toy.model().config.vocab_size
    found = patched_headroom(patched, plain, temperature=2.0, vocab_size=vocab_size)
    told = {(row['arm'], row['other']): row for row in found}
    compared = [*((key, None) for key in arms), *itertools.combinations(list(arms)[:4], 2)]
    assert list(told) == compared, 'other classes have other sources'
    of = lambda one, other: [told[one, other][key] for key in ('agreement', 'moved', 'same')]
    assert of('one', 'again')[::2] == [1, 1]
    assert of('nothing', None) == [pytest.approx(1, abs=1e-4), 0, None]
    assert of('one', 'rest')[0] < 0.999
    assert of('one', 'rest')[2] < 1
    np.testing.assert_allclose(of('one', 'nothing')[:2], of('one', None)[:2], atol=1e-4)
    assert of('one', None)[2] is None
    assert of('one', 'nothing')[2] == 0, 'what changes is not what was'


def test_some_of_the_problems_are_read_with_all_of_their_sources():
    sources = np.arange(12).reshape(4, 3)
    found = Interchange(sources, RNG.normal(size=(4, 3, V))).of(np.array([2, 0]))
    np.testing.assert_array_equal(found.sources, sources[[2, 0]])
    assert found.logits.shape == (2, 3, V)
    np.testing.assert_array_equal(some_problems(3), [0, 1, 2])
    many = some_problems(10 * PROBLEMS)
    assert (len(many), many[0], many[-1]) == (PROBLEMS, 0, 10 * PROBLEMS - 1)


def test_arms_are_alike_whose_changed_answers_are_mostly_the_same():
    rows = [
        {'arm': arm, 'other': other, 'same': same}
        for arm, other, same in [
            ('a', None, None),
            ('a', 'b', 0.5),
            ('a', 'c', 0.51),
            ('b', 'c', None),
            ('c', 'd', 0.9),
        ]
    ]
    assert alike_patches(rows) == [('b', 'c', None), ('c', 'd', 0.9), ('a', 'c', 0.51)]
