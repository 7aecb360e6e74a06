"""Patched answers by hand, what they are patched from, and what a student is patched in."""

import dataclasses

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.data.token_rows import TokenRows
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.interchange import (
    draw_sources,
    in_layers,
    patch_teacher,
    patched_logits,
    student_patched,
)
from cdjax.errors import InputError
from cdjax.models import Edit

DATA = toy.dataset()[:40]
CLASSES = DATA.labels['operators'][:40]
MASKS = np.random.default_rng(0).random((2, toy.L, toy.F)) < 0.4
ALIGNED = Alignment(((0, 0), (1, 0)), CLASSES, MASKS, MASKS[:, :, :16], similarity='interchange')


@jax.jit
def by_edit(model, tokens, sources, masks_BxLxF, lengths):
    """The model with neurons set to what they are on other problems, the values written in."""
    _, taken = model(sources, capture=('neurons',))
    masks = masks_BxLxF.swapaxes(0, 1)[:, :, None]
    edit = Edit(scale=1 - masks, shift=masks * taken['neurons'])
    return model(tokens, edits={'neurons': edit})[0][:, -1]


@jax.jit
def unpatched(model, tokens):
    return model(tokens, logits_at=-1)[0]


@pytest.fixture(scope='module')
def patched():
    return patch_teacher(toy.model(), DATA, ALIGNED, seed=0, sources=2)


def test_the_teachers_answers_with_its_circuits_patched(patched):
    masks = np.zeros((2, toy.L, toy.F), np.float32)
    masks[:, 0] = MASKS[:, 0]  # of the paired layer alone
    for r in range(2):
        sources = DATA.tokens[patched.sources[:, r]]
        expected = by_edit(toy.model(), DATA.tokens, sources, masks[CLASSES], DATA.lengths)
        np.testing.assert_allclose(patched.logits[:, r], expected, rtol=1e-3, atol=1e-4)
    plain = unpatched(toy.model(), DATA.tokens)
    assert np.abs(patched.logits[:, 0] - plain).max() > 0.1


def test_a_batch_holds_one_source_of_each_problem_and_another_at_the_next_step(patched):
    index = np.array([5, 0, 7])
    for step in (0, 1):
        batch = patched.at(index, step, DATA.tokens)
        draws = (step + index) % 2
        np.testing.assert_array_equal(
            batch['source_tokens'], DATA.tokens[patched.sources[index, draws]]
        )
        np.testing.assert_array_equal(batch['patched_logits'], patched.logits[index, draws])


def test_the_student_is_patched_in_its_own_circuits():
    student = toy.model(seed=1, student=True)
    sources = DATA.tokens[::-1]
    batch = {
        'tokens': DATA.tokens,
        'lengths': DATA.lengths,
        'source_tokens': sources,
        'classes': CLASSES,
    }
    found = jax.jit(student_patched)(student, batch, ALIGNED.placed(toy.one_device()))
    masks = ALIGNED.student_masks[CLASSES].astype(np.float32)
    expected = by_edit(student, DATA.tokens, sources, masks, DATA.lengths)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_patch_at_some_positions_leaves_the_others():
    model, masks = toy.model(), np.ones((40, toy.L, toy.F), np.float32)
    at = lambda positions: jax.jit(
        lambda: patched_logits(
            model, DATA.tokens, DATA.lengths, DATA.tokens[::-1], masks, positions=positions
        )
    )()
    assert np.abs(at((1,)) - unpatched(model, DATA.tokens)).max() > 1e-3
    # At the answer position all neurons, and all that they read, are the other problem's but one.
    assert np.abs(at((1,)) - at(None)).max() > 1e-3


def test_sources_are_other_problems_of_the_same_length_and_by_turns_of_the_class():
    lengths = np.array([5] * 30 + [7] * 10)
    classes = np.arange(40) % 3
    classes[0] = 9  # alone in its class
    drawn = draw_sources(lengths, classes, 4, seed=0)
    assert (drawn != np.arange(40)[:, None]).all()
    np.testing.assert_array_equal(lengths[drawn], np.tile(lengths[:, None], 4))
    of_class = classes[drawn] == classes[:, None]
    assert of_class[1:, ::2].all()
    assert 0 < of_class[1:, 1::2].mean() < 1
    np.testing.assert_array_equal(drawn, draw_sources(lengths, classes, 4, seed=0))
    assert (drawn != draw_sources(lengths, classes, 4, seed=1)).any()
    with pytest.raises(InputError, match='no other problem has 9 tokens'):
        draw_sources(np.array([5, 5, 9]), np.zeros(3, int), 2, seed=0)


def test_what_cannot_be_patched():
    with pytest.raises(InputError, match='patches circuits of both models: choose an arm'):
        patch_teacher(toy.model(), DATA, dataclasses.replace(ALIGNED, student_masks=None), seed=0)
    kept = in_layers(MASKS, (1, 1))
    assert not kept[:, 0].any()
    np.testing.assert_array_equal(kept[:, 1], MASKS[:, 1])


def test_prompts_that_are_aligned_are_patched_from_prompts_that_start_where_they_do():
    starts = np.array([0, 1] * 20, np.int32)
    rows = TokenRows(DATA.tokens, starts, np.full(40, toy.T, np.int32))
    aligned = dataclasses.replace(DATA, tokens=rows)
    np.testing.assert_array_equal(aligned.prompt_sizes, 5 - starts)
    np.testing.assert_array_equal(DATA.prompt_sizes, np.full(40, 5))
    patched = patch_teacher(toy.model(), aligned, ALIGNED, seed=0, sources=2)
    np.testing.assert_array_equal(starts[patched.sources], np.tile(starts[:, None], 2))
    batch = patched.at(np.array([3, 4]), 0, aligned.tokens)
    np.testing.assert_array_equal(batch['source_tokens'].starts, starts[[3, 4]])
