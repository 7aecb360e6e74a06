"""The terms of a distillation, and what of past problems they compare, by hand."""

import dataclasses

import jax
import numpy as np
import pytest
import toy_study as toy
from toy_distillation import (
    CIRCUITS,
    CONFIG,
    PAIRS,
    by_hand,
    debiased_cka,
    make_batch,
    masks,
    terms_of,
    whole,
)

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.readings import READINGS, Reading
from cdjax.parallel.mesh import replicate
from cdjax.training.distillation import make_step
from cdjax.training.optimizer import OptimizerConfig, make_optimizer
from cdjax.training.state import model_state
from cdjax.training.step import jit_step


@pytest.mark.parametrize('with_student_masks', [False, True])
def test_terms_by_hand(with_student_masks):
    data = toy.dataset()
    rows = np.arange(0, len(data), 2)
    classes = data.labels['operators']
    teacher_logits, teacher_neurons = (np.asarray(x) for x in whole(toy.model(), data.tokens[rows]))
    alignment = dataclasses.replace(
        CIRCUITS,
        classes=classes,
        student_masks=CIRCUITS.student_masks if with_student_masks else None,
    )
    stored = np.swapaxes(teacher_neurons, 0, 1)[:, [t for _, t in PAIRS]]
    terms = terms_of(make_batch(rows, stored, teacher_logits, classes[rows]), alignment)

    task, of_alignment = by_hand(data[rows], classes[rows], alignment)
    np.testing.assert_allclose(terms['task'], task, rtol=1e-4)
    np.testing.assert_allclose(terms['alignment'], of_alignment, rtol=1e-3)
    assert terms['classes_left_out'] == 0


def test_independent_activations_score_nothing_within_classes(monkeypatch):
    """METHOD: masks that differ by class must not pass for likeness, nor must means."""
    data = toy.dataset()
    rows = np.arange(len(data))
    rng = np.random.default_rng(0)
    classes = data.labels['operators']

    def independent(width):
        # Noise around means that differ by class: nothing of the problem but its class.
        means = 5 + rng.normal(size=(2, 1, width))
        return (rng.normal(size=(len(rows), 1, width)) + means[classes]).astype(np.float32)

    student, teacher = independent(toy.F // 2), independent(toy.F)
    logits = np.zeros((len(rows), len(toy.tokenizer())), np.float32)
    noise = Reading('noise', 'what is drawn here', lambda *_, **__: (logits, student))
    monkeypatch.setitem(READINGS._entries, 'noise', noise)
    alignment = Alignment(
        ((0, 0),), classes, masks(toy.F, 0), masks(toy.F // 2, 1), reading='noise'
    )
    terms = terms_of(make_batch(rows, teacher, logits, classes), alignment)
    assert abs(1 - float(terms['alignment'])) < 0.1

    x, y = student[:, 0].astype(np.float64), teacher[:, 0].astype(np.float64)
    naive = debiased_cka(
        x * alignment.student_masks[classes, 0], y * alignment.teacher_masks[classes, 0]
    )
    assert naive > 0.9, 'the trap that this test is about is not set'


def test_all_neurons_are_compared_over_all_problems():
    data = toy.dataset()
    rows = np.arange(0, len(data), 2)
    _, student = whole(toy.model(seed=1, student=True), data.tokens[rows])
    logits, teacher = whole(toy.model(), data.tokens[rows])
    alignment = Alignment(((0, 1),))
    batch = make_batch(rows, np.asarray(teacher)[1][:, None], np.asarray(logits))
    cka = debiased_cka(np.asarray(student[0], np.float64), np.asarray(teacher[1], np.float64))
    np.testing.assert_allclose(terms_of(batch, alignment)['alignment'], 1 - cka, rtol=1e-3)


def test_past_problems_of_a_class_are_compared_with_those_of_the_batch():
    """Two steps of a make_step with a memory, the second one's alignment by hand."""
    data, classes = toy.dataset(), toy.dataset().labels['operators']
    alignment = dataclasses.replace(CIRCUITS, classes=classes, memory=6)
    placed = alignment.placed(toy.one_device())
    optimizer = OptimizerConfig(2, 1e-2, warmup_steps=1, weight_decay=0.0)
    student, mesh = toy.model(seed=1, student=True), toy.one_device()
    state = model_state(student, optimizer, jax.random.key(0), mesh)
    memory = replicate(alignment.empty_memories(toy.F // 2, toy.F), mesh)
    state = dataclasses.replace(state, memory=memory)
    step = jit_step(make_step(make_optimizer(optimizer), CONFIG), state)
    teacher_logits, teacher = (np.asarray(x) for x in whole(toy.model(), data.tokens))
    stored = np.swapaxes(teacher, 0, 1)[:, [t for _, t in PAIRS]]
    students = []
    batches = np.random.default_rng(0).permutation(len(data))[:48].reshape(2, 24)
    for rows in batches:
        students.append(np.asarray(whole(state.params, data.tokens[rows])[1], np.float64))
        batch = make_batch(rows, stored[rows], teacher_logits[rows], classes[rows])
        state, metrics = step(state, batch, placed)
    expected = 0.0
    for i, (s, _) in enumerate(PAIRS):
        by_class = []
        for k in range(2):
            of_class = [classes[rows] == k for rows in batches]
            past = [np.flatnonzero(of_class[0])[-6:], np.flatnonzero(of_class[1])]
            x = np.concatenate([students[b][s][at] for b, at in enumerate(past)])
            y = np.concatenate([stored[batches[b][at], i] for b, at in enumerate(past)])
            x = x[:, CIRCUITS.student_masks[k, PAIRS[i][0]]]
            y = y[:, CIRCUITS.teacher_masks[k, PAIRS[i][1]]].astype(np.float64)
            by_class.append(debiased_cka(x, y))
        expected += 1 - np.mean(by_class)
    np.testing.assert_allclose(metrics['alignment'], expected, rtol=2e-3)
    last = np.flatnonzero(classes[batches[1]] == 1)[-6:]
    held = np.sort(np.asarray(state.memory[0].teacher[1]), axis=0)
    np.testing.assert_array_equal(held, np.sort(stored[batches[1][last], 0], axis=0))
