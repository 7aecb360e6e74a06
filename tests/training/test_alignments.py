"""Distillations by other alignments: one step for all arms of a shape, and what each one trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.interchange import patch_teacher
from cdjax.distillation.store import OnlineTeacher, TeacherStore, Wanted
from cdjax.errors import InputError
from cdjax.run.checksums import tree_names
from cdjax.run.options import RunOptions
from cdjax.training import distillation
from cdjax.training.distillation import (
    DistillationConfig,
    check_distillation,
    distill,
    distillation_terms,
)
from cdjax.training.learned_maps import LearnedMaps, first_memory
from cdjax.training.optimizer import OptimizerConfig
from cdjax.training.schedules import weight_at

CONFIG = DistillationConfig(OptimizerConfig(2, 1e-2, 0, 0.1), batch_size=32)
SHARE = toy.dataset()[toy.rows().share]
CLASSES = SHARE.labels['operators']
SILENT = RunOptions(check_gradients=False)


def masks(width, seed):
    return np.random.default_rng(seed).random((2, toy.L, width)) < 0.5


CIRCUITS = Alignment(((1, 0),), CLASSES, masks(toy.F, 0), masks(toy.F // 2, 1))


@pytest.fixture(scope='module')
def store():
    return TeacherStore.build(toy.model(), SHARE, outputs=True)


def run(store, config=CONFIG, alignment=CIRCUITS, **changes):
    student = toy.model(seed=1, student=True)
    changes = {'options': SILENT} | changes
    return distill(student, store, SHARE, config, alignment=alignment, **changes)


def leaves(model):
    pairs = zip(tree_names(model), jax.tree.leaves(model), strict=True)
    return {name: np.asarray(leaf) for name, leaf in pairs}


def test_arms_of_one_shape_run_under_one_compilation(store):
    before = toy.compilations('step')
    ends = []
    for arm in range(3):  # other neurons, other classes, other seeds, another weight
        alignment = dataclasses.replace(
            CIRCUITS, teacher_masks=masks(toy.F, arm), classes=np.roll(CLASSES, arm)
        )
        config = dataclasses.replace(CONFIG, seed=arm % 2, weight=1.0 + arm)
        end = run(store, config, alignment)[1][-1]
        total = end['task'] + config.weight * end['alignment']
        assert end['loss'] == pytest.approx(total, rel=1e-5), 'each arm has its own weight'
        ends.append(end['alignment'])
    assert toy.compilations('step') == before + 1
    assert len(set(ends)) == 3, 'each arm has its own arrays'


def test_an_online_teacher_teaches_the_same_to_rounding(store):
    online = OnlineTeacher.build(toy.model(), SHARE, Wanted(outputs=True))
    for one, other in zip(run(store)[1], run(online)[1], strict=True):
        assert one['loss'] == pytest.approx(other['loss'], rel=1e-4)


def test_weights_over_a_training():
    at = lambda schedule, step: float(weight_at(schedule, 3.0, jnp.int32(step), 10))
    assert [at('rise', step) for step in (0, 5, 10)] == [0, 1.5, 3]
    assert [at('fall', step) for step in (0, 5, 10)] == [3, 1.5, 0]
    assert at('cosine', 5) == pytest.approx(1.5)
    assert at('cosine', 2) == pytest.approx(3 * 0.5 * (1 + np.cos(0.2 * np.pi)))
    assert isinstance(weight_at('constant', 3.0, jnp.int32(4), 10), float)


def test_paired_components_alone_are_trained_on_a_falling_weight(store, monkeypatch):
    config = dataclasses.replace(
        CONFIG, trained='paired', weight_schedule='fall', optimizer=OptimizerConfig(1, 1e-2, 0, 0.1)
    )
    student, (point,) = run(store, config)
    assert point['loss'] == pytest.approx(point['task'] + point['alignment'], rel=1e-5)
    before, after = leaves(toy.model(seed=1, student=True)), leaves(student)
    units = CIRCUITS.student_masks.any(axis=0)[1]
    for name, old in before.items():
        moved = old != after[name]
        if name == 'layers.mlp.down.weight':
            np.testing.assert_array_equal(moved[1].all(axis=1), units)
            np.testing.assert_array_equal(moved[1].any(axis=1), units)
        elif name in ('layers.mlp.gate.weight', 'layers.mlp.up.weight'):
            np.testing.assert_array_equal(moved[1].any(axis=0), units)
            assert not moved[0].any()
        else:
            assert not moved.any(), name
    # KD alone, held against it, is told to train the same.
    told = []

    def record(step, state):
        return lambda state, batch, placed, components, weight: (
            told.append(leaves(components)) or (state, {})
        )

    monkeypatch.setattr(distillation, 'jit_step', record)
    run(store, config, None, paired=CIRCUITS)
    run(store, config)
    of_kd, of_circuits = told
    for name, trained in of_circuits.items():
        np.testing.assert_array_equal(of_kd[name], trained)


def test_a_learned_map_is_trained_beside_the_student_and_kept(store, tmp_path):
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(60, 2e-2, 0, 0.0))
    mapped = dataclasses.replace(CIRCUITS, similarity='linear_map')
    student, history = run(store, config, mapped, workdir=tmp_path)
    assert history[-1]['alignment'] < 0.8 * history[0]['alignment']
    before = toy.compilations('step')
    again, points = run(store, config, mapped, workdir=tmp_path)  # restored, maps and all
    assert points == history
    assert toy.compilations('step') == before
    for name, leaf in leaves(student).items():
        np.testing.assert_array_equal(leaf, leaves(again)[name])
    memory = first_memory(mapped, config, 16, 32)
    assert isinstance(memory, LearnedMaps)
    assert [m.shape for m in memory.maps] == [(16, 32)]


def test_interchange_teaches_what_the_patched_teacher_says(store):
    alignment = dataclasses.replace(CIRCUITS, similarity='interchange')
    patched = patch_teacher(toy.model(), SHARE, alignment, seed=0, sources=2)
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(40, 1e-2, 0, 0.0))
    _, history = run(store, config, alignment, interchange=patched)
    assert history[-1]['alignment'] < 0.8 * history[0]['alignment']
    # All tokens of the top say what all logits do.
    k = toy.teacher_config().vocab_size
    of_top = (k, CONFIG.temperature)
    top = patch_teacher(toy.model(), SHARE, alignment, seed=0, sources=2, top_k=of_top)
    np.testing.assert_array_equal(top.sources, patched.sources)
    assert top.logits.indices.shape == (len(SHARE), 2, k)
    rows = np.arange(32)
    batch = {
        'tokens': SHARE.tokens[rows],
        'lengths': SHARE.lengths[rows],
        'teacher_logits': store.logits[rows],
        'classes': CLASSES[rows],
    }
    batches = [batch | taught.at(rows, 0, SHARE.tokens) for taught in (patched, top)]
    placed, student = alignment.placed(toy.one_device()), toy.model(seed=1, student=True)

    @jax.jit
    def alignments(student, batches, placed):
        terms = (distillation_terms(student, batch, placed, (), CONFIG)[1] for batch in batches)
        return [found['alignment'] for found in terms]

    one, other = alignments(student, batches, placed)
    assert float(other) == pytest.approx(float(one), rel=1e-4)


@pytest.mark.parametrize('reading', ['contributions', 'attributions'])
def test_other_readings_train_the_student(store, reading):
    alignment, of = dataclasses.replace(CIRCUITS, reading=reading), store
    if reading == 'attributions':  # of all neurons
        alignment = dataclasses.replace(alignment, teacher_masks=None, student_masks=None)
        of = TeacherStore.build(toy.model(), SHARE, reading=reading)
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(30, 1e-2, 0, 0.0), weight=10.0)
    _, history = run(of, config, alignment)
    assert history[-1]['alignment'] < history[0]['alignment']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'weight_schedule': 'step'}, 'weight_schedule=step: choose from constant, rise, fall'),
        ({'trained': 'none'}, 'trained=none: choose from all, paired'),
        ({'teacher_store': ''}, 'teacher_store= names no folder'),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_interchange_without_circuits_is_refused_before_a_model_is_loaded():
    bare = Alignment(((1, 0),), similarity='interchange')
    with pytest.raises(InputError, match='patches circuits of both models'):
        check_distillation(CONFIG, 60, vocab_size=30, mesh=toy.one_device(), alignment=bare)
