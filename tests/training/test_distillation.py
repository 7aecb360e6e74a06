import dataclasses
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy
from toy_distillation import (
    CIRCUITS,
    CLASSES,
    CONFIG,
    PAIRS,
    SHARE,
    STEPS,
    by_hand,
    whole,
)

from cdjax.data import batch_indices
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.rare_classes import batch_with_enough
from cdjax.distillation.readings import READINGS, Reading
from cdjax.distillation.store import TeacherStore
from cdjax.errors import InputError
from cdjax.parallel.mesh import make_mesh
from cdjax.parallel.preemption import Preempted
from cdjax.run.checksums import tree_names
from cdjax.run.options import RunOptions
from cdjax.training import distillation
from cdjax.training.diagnostics import GradientError
from cdjax.training.distillation import (
    DistillationConfig,
    distill,
    distillation_terms,
)
from cdjax.training.optimizer import OptimizerConfig
from cdjax.training.state import model_state

pytestmark = pytest.mark.usefixtures('one_step_a_dispatch')


# The circuits of one pair of layers are enough for what holds of any number of them.
ONE_PAIR = dataclasses.replace(CIRCUITS, pairs=PAIRS[1:])
jit_step = distillation.jit_step


@pytest.fixture(scope='module')
def store():
    return TeacherStore.build(toy.model(), SHARE, mesh=toy.one_device())


def run(store, mesh, config=CONFIG, student=None, alignment=ONE_PAIR, **changes):
    changes = {'options': RunOptions(check_gradients=False)} | changes
    student = toy.model(mesh, seed=1, student=True) if student is None else student
    return distill(student, store, SHARE, config, mesh=mesh, alignment=alignment, **changes)


@pytest.fixture(scope='module')
def reference(store, tmp_path_factory):
    """A run to the end, several of whose steps are a program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('cdjax.training.step.SMALL_STEP', math.inf)
        return run(store, toy.one_device(), workdir=tmp_path_factory.mktemp('distillation'))


def test_a_trained_student_is_tuned_finely_and_a_new_one_is_not(store, monkeypatch):
    chosen = []
    make = distillation.make_optimizer
    monkeypatch.setattr(
        distillation, 'make_optimizer', lambda config: chosen.append(config) or make(config)
    )
    monkeypatch.setattr(
        distillation, 'jit_step', lambda step, state: lambda state, *_: (state, {'loss': 0.0})
    )
    config = DistillationConfig(OptimizerConfig(2), batch_size=32)
    run(store, toy.one_device(), config, alignment=None)
    student, _ = run(store, toy.one_device(), config, student=toy.student_config(), alignment=None)
    trained, new = chosen[0], chosen[-1]
    assert student.config == toy.student_config()
    assert trained == OptimizerConfig(2, 2e-5, warmup_steps=100, weight_decay=0.0)
    assert new == OptimizerConfig(2, 2e-3, warmup_steps=100, weight_decay=1.0)


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model)]


def test_the_store_is_what_the_teacher_says(store):
    logits, activations = jax.jit(lambda m, t: m(t, capture=('neurons',)))(
        toy.model(), SHARE.tokens
    )
    np.testing.assert_allclose(store.logits, logits[:, -1], rtol=1e-4, atol=1e-5)
    expected = np.swapaxes(np.asarray(activations['neurons'])[:, :, -1], 0, 1)
    np.testing.assert_allclose(store.activations, expected, rtol=1e-4, atol=1e-5)


def test_a_stopped_and_continued_distillation_is_the_uninterrupted_one(
    store, reference, monkeypatch, tmp_path
):
    monkeypatch.setattr('cdjax.training.step.SMALL_STEP', math.inf)
    asked, compiled = [], toy.compilations('step')

    def stopping(*args, step, **options):
        asked.append(step)
        if step == 5 and asked.count(5) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_indices(*args, step=step, **options)

    monkeypatch.setattr(distillation, 'batch_indices', stopping)
    with pytest.raises(Preempted):
        run(store, toy.one_device(), workdir=tmp_path)
    stopped_at = len(asked)
    assert asked[-1] == 9, 'not to the end of the steps that were dispatched'
    student, history = run(store, toy.one_device(), workdir=tmp_path)
    assert asked[stopped_at] > 0, 'it began anew'
    for a, b in zip(leaves(student), leaves(reference[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history[-1]['loss'] == reference[1][-1]['loss']
    # Asked for another training, even from Python, it does not hand out this one.
    weighty = dataclasses.replace(CONFIG, weight=CONFIG.weight + 1)
    for words, changes in (
        ('config.weight is', {'config': weighty}),
        ('alignment is', {'alignment': None}),
    ):
        with pytest.raises(InputError, match=f'holds another training: {words}'):
            run(store, toy.one_device(), workdir=tmp_path, **changes)
    # A weak type or another sharding of the restored state would have compiled the step again.
    assert toy.compilations('step') == compiled


def test_eight_devices_agree_with_one(store, reference, monkeypatch):
    """Which are given each step by itself, while several of the one's are a program."""
    states = []
    record = lambda step, state: states.append(state) or jit_step(step, state)
    monkeypatch.setattr(distillation, 'jit_step', record)
    before = toy.compilations('step')
    student, history = run(store, make_mesh(2, 4))
    assert toy.compilations('step') == before + 1
    down = student.layers.mlp.down.weight[...]
    (planned,) = jax.tree.leaves(states[0].params.layers.mlp.down)
    assert down.sharding == planned.sharding
    assert down.addressable_shards[0].data.size == down.size // 8
    for name in ('loss', 'task', 'alignment'):
        assert history[-1][name] == pytest.approx(reference[1][-1][name], rel=1e-5)
    for a, b in zip(leaves(reference[0]), leaves(student), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)


@pytest.fixture(scope='module')
def answers_alone(store):
    """A distillation without an alignment: from where, the student, its log, the evaluations."""
    start, evaluated = toy.model(seed=1, student=True), []

    def evaluate(model):
        evaluated.append(leaves(model))
        return {'count': float(len(evaluated))}

    before, compiled = leaves(start), toy.compilations('step')
    student, history = run(
        store,
        toy.one_device(),
        student=start,
        alignment=None,
        evaluate=evaluate,
        evaluate_every=STEPS // 2,
    )
    assert toy.compilations('step') == compiled + 1
    for a, b in zip(leaves(start), before, strict=True):
        np.testing.assert_array_equal(a, b)
    return student, history, evaluated


def test_a_given_student_is_copied_and_learns(answers_alone):
    student, history, evaluated = answers_alone
    assert [p['evaluation/count'] for p in history if 'evaluation/count' in p] == [1, 2]
    for a, b in zip(evaluated[-1], leaves(student), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history[-1]['task'] < 0.8 * history[0]['task']
    assert history[-1]['loss'] == pytest.approx(history[-1]['task'])
    assert history[-1]['alignment'] == 0


def test_all_columns_of_a_batch_are_of_the_same_problems(store, monkeypatch):
    batches = []

    def record(step, state):
        return lambda state, batch, *_: (batches.append(batch), (state, {'loss': 0.0}))[1]

    monkeypatch.setattr(distillation, 'jit_step', record)
    run(store, toy.one_device(), alignment=CIRCUITS)
    row_of = {tuple(tokens): row for row, tokens in enumerate(SHARE.tokens)}
    for batch in batches:
        at = np.array([row_of[tuple(tokens)] for tokens in np.asarray(batch['tokens'])])
        np.testing.assert_array_equal(batch['teacher_logits'], store.logits[at])
        np.testing.assert_array_equal(
            batch['teacher_activations'], store.activations[at][:, [1, 0]]
        )
        np.testing.assert_array_equal(batch['classes'], CLASSES[at])
    assert len(batches) == STEPS


def test_a_model_in_bfloat16_is_trained_in_float32():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), toy.model(seed=1, student=True))
    optimizer = CONFIG.suited_to(pretrained=True).optimizer
    state = model_state(half, optimizer, jax.random.key(0), toy.one_device())
    trained = jax.tree.leaves((state.params, state.opt_state))
    assert {x.dtype for x in trained if x.size > 1} == {jnp.dtype('float32')}
    np.testing.assert_array_equal(state.params.norm.weight[...], half.norm.weight[...])


def test_past_problems_are_part_of_what_a_distillation_continues_from(store, monkeypatch):
    seen = []
    monkeypatch.setattr(
        distillation, 'jit_step', lambda step, state: seen.append(state) or (lambda s, *_: (s, {}))
    )
    remembering = dataclasses.replace(CIRCUITS, memory=5)
    run(store, toy.one_device(), alignment=remembering)
    run(store, toy.one_device(), alignment=Alignment(PAIRS, memory=5))
    assert [m.teacher.shape for m in seen[0].memory] == [(2, 5, toy.F)] * 2
    assert [m.student.shape for m in seen[0].memory] == [(2, 5, toy.F // 2)] * 2
    assert any(name.startswith('memory') for name in tree_names(seen[0]))
    assert seen[1].memory == ()


def test_each_task_learns_from_what_it_is_named_for(store):
    rows = np.arange(24)
    labels = SHARE.answers[rows]
    student = toy.model(seed=1, student=True)
    logits = np.asarray(whole(student, SHARE.tokens[rows])[0], np.float64)
    log_softmax = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    p, q = (log_softmax(x / 2.0) for x in (np.float64(store.logits[rows]), logits))
    expected = {
        'kd': 4 * (np.exp(p) * (p - q)).sum(-1).mean(),
        'reverse_kd': 4 * (np.exp(q) * (q - p)).sum(-1).mean(),
        'cross_entropy': -log_softmax(logits)[rows, labels].mean(),
    }
    batch = {'tokens': SHARE.tokens[rows], 'lengths': SHARE.lengths[rows]}
    known = {task: {'teacher_logits': store.logits[rows]} for task in expected}
    known['cross_entropy'] = {'labels': labels}

    @jax.jit
    def terms(student, batch, known):
        of = lambda task: (batch | known[task], None, (), dataclasses.replace(CONFIG, task=task))
        return {task: distillation_terms(student, *of(task))[1]['task'] for task in known}

    found = terms(student, batch, known)
    for task, value in expected.items():
        np.testing.assert_allclose(found[task], value, rtol=1e-4)


def test_a_batch_holds_the_labels_or_the_teachers_logits_and_the_rows_it_is_given(
    store, monkeypatch
):
    batches = []

    def record(step, state):
        return lambda state, batch, *_: (batches.append(batch), (state, {'loss': 0.0}))[1]

    monkeypatch.setattr(distillation, 'jit_step', record)
    order = np.random.default_rng(0).permutation(len(SHARE))
    shuffled = dataclasses.replace(CIRCUITS, teacher_rows=order)
    config = dataclasses.replace(CONFIG, task='cross_entropy', optimizer=OptimizerConfig(1, 1e-2))
    run(store, toy.one_device(), config, alignment=shuffled)
    (batch,) = batches
    at = batch_indices(np.arange(len(SHARE)), 32, seed=0, step=0)
    np.testing.assert_array_equal(batch['labels'], SHARE.answers[at])
    assert 'teacher_logits' not in batch
    paired = store.activations[order[at]][:, [1, 0]]
    np.testing.assert_array_equal(batch['teacher_activations'], paired)


# -- What is refused ------------------------------------------------------------------------------


def test_a_detached_student_is_caught(store, monkeypatch):
    def trap(params, tokens, *_, **__):
        # Of a model without layers: what is detached, not of what, is told.
        x = params.embed.weight[...][tokens].sum(1)
        return x @ params.lm_head.weight[...], jax.lax.stop_gradient(x[:, None, :] ** 2)

    monkeypatch.setitem(READINGS._entries, 'trap', Reading('trap', 'detached activations', trap))
    detached = Alignment(ONE_PAIR.pairs, reading='trap')
    with pytest.raises(GradientError, match=r'alignment .* is detached'):
        run(
            dataclasses.replace(store, reading='trap'),
            toy.one_device(),
            alignment=detached,
            options=RunOptions(),
        )


def test_the_gradient_doctor_looks_at_the_start_and_on_request(store, monkeypatch, tmp_path):
    # Steps that do nothing: the reports are of the start.
    monkeypatch.setattr(
        distillation, 'jit_step', lambda step, state: lambda state, *_: (state, {'loss': 0.0})
    )
    config = dataclasses.replace(CONFIG, microbatches=2)
    options = RunOptions(diagnose_every=8)
    _, history = run(store, toy.one_device(), config, workdir=tmp_path, options=options)
    reports = {p['step']: p for p in history if 'diagnostics/task/value' in p}
    assert list(reports) == [0, 8, 16]
    of_first_batch = batch_indices(np.arange(len(SHARE)), 32, seed=0, step=0)[::2]
    expected = by_hand(SHARE[of_first_batch], CLASSES[of_first_batch], ONE_PAIR)
    for name, value in zip(('task', 'alignment'), expected, strict=True):
        assert reports[0][f'diagnostics/{name}/value'] == pytest.approx(value, rel=1e-3), name
        assert reports[0][f'diagnostics/{name}/gradient/layers'] > 0
    assert (tmp_path / 'gradients' / '8.txt').read_text().startswith('term')


def test_models_of_two_vocabularies(store):
    other = dataclasses.replace(toy.student_config(), vocab_size=50)
    with pytest.raises(InputError, match='the student has 50 tokens and the teacher 30'):
        run(store, toy.one_device(), student=other)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'weight': -1.0}, r'weight=-1\.0'),
        ({'task': 'mse'}, 'task=mse: choose from kd, reverse_kd, cross_entropy'),
        ({'task': 'reverse_kd', 'top_k': 2}, 'top_k=2: reverse KD'),
        ({'temperature': 0.0}, r'temperature=0\.0 must be above 0'),
        ({'batch_size': 0}, 'batch_size=0: at least 1'),
        ({'top_k': 0}, 'top_k=0: at least 1 token'),
        ({'microbatches': 5}, r'microbatches=5 does not divide batch_size=32: .*\[1, 2, 4, 8'),
        ({'seed': -1}, 'seed=-1 must not be negative'),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_batch_too_small_for_cka(store):
    with pytest.raises(InputError, match='batch_size=3 is too small: CKA needs at least 4'):
        run(store, toy.one_device(), dataclasses.replace(CONFIG, batch_size=3))


def test_what_a_memory_of_past_problems_cannot_go_with(store):
    remembering = dataclasses.replace(CIRCUITS, memory=5)
    parts = dataclasses.replace(CONFIG, microbatches=2)
    with pytest.raises(InputError, match='row_memory=5 needs the whole batch'):
        run(store, toy.one_device(), parts, alignment=remembering)
    with pytest.raises(InputError, match='row_memory=5 is for similarity=cka, not rsa'):
        run(store, toy.one_device(), alignment=dataclasses.replace(remembering, similarity='rsa'))


def test_rare_classes_are_warned_of_with_the_batch_that_would_do(store, monkeypatch):
    monkeypatch.setattr(distillation, 'jit_step', lambda step, state: lambda s, *_: (s, {}))
    classes = np.zeros(len(SHARE), int)
    classes[: len(SHARE) // 20] = 1
    rare = dataclasses.replace(CIRCUITS, classes=classes)
    with pytest.warns(UserWarning, match='batch_size=32: 1 of 2 classes .* take '):
        run(store, toy.one_device(), alignment=rare)
    # Six rows are compared at once.
    rare = dataclasses.replace(CIRCUITS, classes=np.arange(len(SHARE)) % 2)
    parts = dataclasses.replace(CONFIG, batch_size=24, microbatches=4)
    enough = batch_with_enough(len(SHARE) // 2, len(SHARE), 4, microbatches=4, multiple=4)
    with pytest.raises(InputError, match=f'batch_size=24 in 4 .* take batch_size={enough}, '):
        run(store, toy.one_device(), parts, alignment=rare)


def test_microbatches_too_small_for_cka_or_for_the_mesh(store):
    config = dataclasses.replace(CONFIG, microbatches=16)
    with pytest.raises(InputError, match='batch_size=32 in 16 microbatches is too small'):
        run(store, toy.one_device(), config)
    with pytest.raises(InputError, match=r'over the 8 devices .* multiple of 128'):
        run(store, make_mesh(8, 1), config, alignment=None)


def top(k):
    return TeacherStore.build(
        toy.model(),
        SHARE,
        mesh=toy.one_device(),
        layers=(),
        top_k=k,
        temperature=CONFIG.temperature,
    )


def test_microbatches_of_all_tokens_of_the_top_are_learned_as_whole_answers_at_once(answers_alone):
    whole, history, _ = answers_alone
    parts, in_parts = run(
        top(toy.teacher_config().vocab_size),
        make_mesh(devices=jax.devices()[:2]),
        dataclasses.replace(CONFIG, microbatches=4),
        alignment=None,
    )
    assert in_parts[-1]['loss'] == pytest.approx(history[-1]['loss'], rel=1e-5)
    for a, b in zip(leaves(whole), leaves(parts), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)


def test_few_tokens_of_the_top_take_little():
    few, vocab_size = top(3), toy.teacher_config().vocab_size
    assert sum(x.nbytes for x in jax.tree.leaves(few.logits)) == len(SHARE) * 3 * 8
    assert few.activations.shape == (len(SHARE), 0, toy.F)
    with pytest.raises(InputError, match=f'top_k=999: the teacher has {vocab_size} tokens'):
        top(999)


def test_bfloat16_and_remat_leave_the_masters_float32():
    config = dataclasses.replace(
        CONFIG, compute_dtype='bfloat16', remat='full', optimizer=OptimizerConfig(2, 1e-2)
    )
    student, history = run(top(3), toy.one_device(), config, alignment=None)
    assert {leaf.dtype for leaf in leaves(student)} == {np.dtype(np.float32)}
    assert np.isfinite(history[-1]['loss'])
    assert jnp.isfinite(history[-1]['gradient'])
