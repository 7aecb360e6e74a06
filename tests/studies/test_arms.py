import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import toy_study as toy
from scipy import stats

from cdjax.circuits.circuit import Circuit
from cdjax.data import Split
from cdjax.data.encoding import NO_TOKEN
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS, Given
from cdjax.distillation.pairs import Unit
from cdjax.distillation.store import TeacherStore
from cdjax.errors import InputError
from cdjax.studies import arms, student
from cdjax.studies.arms import (
    ArmsConfig,
    evaluated_rows,
    summarise,
    train_head_start,
)
from cdjax.studies.student import Lesson, measure_unseen
from cdjax.training.distillation import DistillationConfig
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.optimizer import OptimizerConfig

N, K = 40, 3
ROWS = np.array([3, 1, 17, 30])
CONFIG = ArmsConfig(DistillationConfig(OptimizerConfig(3, 1e-3)))


def circuit(width, seed):
    rng = np.random.default_rng(seed)
    # Layers of unlike density, which random masks have to match.
    masks = rng.random((K, 2, width)) < np.array([0.2, 0.7])[None, :, None]
    return Circuit(
        masks=masks,
        scores=masks.astype(np.float32),
        fill=np.zeros((2, 5, width), np.float32),
        assignments=np.arange(N, dtype=np.int32) % K,
    )


GIVEN = Given(Alignment(((1, 1),)), ROWS, circuit(32, 100), circuit(16, 101))


# -- The table ------------------------------------------------------------------------------------


def run(arm, seed, unseen):
    return {'arm': arm, 'seed': seed, 'unseen': unseen, 'curve': [[50, unseen / 2], [100, unseen]]}


def test_summary_by_hand():
    runs = [run('kd', 0, 0.2), run('kd', 1, 0.5), run('circuits', 1, 0.8), run('circuits', 0, 0.6)]
    kd, circuits = summarise(runs, ['kd', 'circuits'])
    assert kd == {
        'arm': 'kd',
        'title': 'KD',
        'phrase': 'KD alone',
        'colour': 'ink',
        'seeds': [0, 1],
        'accuracies': [0.2, 0.5],
        'mean': pytest.approx(0.35),
        'steps_to_reach': [None, None],
    }
    assert circuits['steps_to_reach'] == [None, pytest.approx(100)]
    assert circuits['p'] == circuits['p_holm'] == pytest.approx(stats.ttest_1samp([0.4, 0.3], 0)[1])
    assert circuits['p_equivalent'] > 0.9
    assert circuits['accuracies'] == [0.6, 0.8]
    assert circuits['gains'] == pytest.approx([0.4, 0.3])
    assert circuits['gain'] == pytest.approx(0.35)
    # Two values: sd = .1 / sqrt(2), and t(.975, 1) = 12.706.
    half = 12.7062 * (0.1 / np.sqrt(2)) / np.sqrt(2)
    assert circuits['gain_interval'] == pytest.approx((0.35 - half, 0.35 + half), rel=1e-4)


def test_gains_are_paired_by_seed_alone():
    runs = [run('kd', 0, 0.1), run('all', 0, 0.3), run('all', 7, 0.9)]
    _, everything = summarise(runs, ['kd', 'all'])
    assert everything['seeds'] == [0, 7]
    assert everything['gains'] == pytest.approx([0.2])
    assert everything['gain_interval'] is None
    (alone,) = summarise(runs[1:], ['all'])
    assert 'gain' not in alone


def test_what_the_optimizer_leaves_open_suits_the_start():
    config = ArmsConfig(DistillationConfig(OptimizerConfig(40, weight_decay=0.5), batch_size=16))
    for start, rate in (('nothing', 2e-3), ('partial', 2e-3), ('checkpoint', 2e-5)):
        optimizer = config.distillation_from(start).optimizer
        assert optimizer == OptimizerConfig(40, rate, warmup_steps=100, weight_decay=0.5)
    head_start = config.head_start(7)
    assert head_start.optimizer == OptimizerConfig(300, 2e-3, warmup_steps=100, weight_decay=0.5)
    assert (head_start.seed, head_start.batch_size) == (7, 16)


# -- What runs are made of ------------------------------------------------------------------------


def test_the_head_start_sees_nothing_of_the_share_or_the_test(monkeypatch, tmp_path):
    seen = {}

    def train(student, dataset, config, **options):
        seen['prompts'] = set(dataset.prompts)
        return 'model', []

    monkeypatch.setattr(arms, 'train_language_model', train)
    config = LanguageModelConfig(OptimizerConfig(1, 1e-3))
    data, rows = toy.dataset(), toy.rows()
    call = lambda split: train_head_start(
        toy.student_config(), data, split, config, mesh=toy.one_device(), workdir=tmp_path
    )
    assert call(rows) == 'model'
    assert seen['prompts']
    assert not seen['prompts'] & set(data.prompts[rows.share])
    assert not seen['prompts'] & set(data.prompts[rows.test])
    with pytest.raises(InputError, match='share=1 leaves no training forms'):
        call(Split(rows.train, rows.train, rows.test))


def test_evaluated_rows_are_unseen_and_not_too_many():
    rows = toy.rows()
    config = dataclasses.replace(CONFIG, max_problems=11)
    chosen = evaluated_rows(rows, config)
    assert len(chosen) == len(set(chosen)) == 11
    assert set(chosen) <= set(rows.test)
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(evaluated_rows(rows, CONFIG), rows.test)


def test_likeness_is_measured_over_all_and_within_classes(monkeypatch):
    rng = np.random.default_rng(0)
    n = 300
    rows = rng.permutation(n)
    classes = rng.integers(K, size=n).astype(np.int32)
    teacher = dataclasses.replace(GIVEN.teacher, assignments=classes)
    shared = rng.normal(size=(n, 32))
    teacher_neurons = shared[:, None] * np.ones((1, 2, 1))
    # The student has what the circuits of layer 1 have, and noise that is ten times as loud.
    neurons = np.concatenate([shared, 10 * rng.normal(size=(n, 64))], axis=1)
    student_masks = np.zeros((K, 2, 96), bool)
    student_masks[:, 1, :32] = teacher.masks[:, 1]
    student_circuit = dataclasses.replace(teacher, masks=student_masks)
    stack = neurons[:, None] * np.ones((1, 2, 1))
    monkeypatch.setattr(
        student,
        'answer_logits_and_activations',
        lambda _, problems, layers, **__: (
            np.zeros((*problems.answers.shape, 4)),
            stack[:, list(layers)].astype(np.float32),
        ),
    )
    # assignments are of all problems, neurons of `rows` alone
    by_row = lambda circuit: dataclasses.replace(circuit, assignments=classes[np.argsort(rows)])
    store = TeacherStore(np.zeros((n, 1)), teacher_neurons[:, 1:].astype(np.float32), (1,), 1)
    problems = SimpleNamespace(answers=np.zeros(n, int), answer_tokens=1)
    measure = lambda *circuits, problems=problems: measure_unseen(
        None, problems, store, rows, Given(GIVEN.alignment, rows, *circuits), mesh=None
    )
    both = measure(by_row(teacher), by_row(student_circuit))
    assert both['cka_circuits'] == pytest.approx(1, abs=1e-3)
    assert abs(both['cka_all']) < 0.2
    # Of four tokens that are equally likely the first is answered, and it is right.
    assert (both['confidence'], both['ece']) == pytest.approx((0.25, 0.75))
    assert both['by_class'] == [1.0] * K
    # Another student of the same shape compiles nothing: a program of each would be kept.
    before = toy.compilations('scan'), toy.compilations('class_conditional_cka')
    assert measure(by_row(teacher), by_row(student_circuit)) == both
    assert (toy.compilations('scan'), toy.compilations('class_conditional_cka')) == before
    # Of answers of several tokens those are right that are so in each: here the short ones.
    short = rng.random(n) < 0.5
    answers = np.stack([np.zeros(n, int), np.where(short, NO_TOKEN, 1)], axis=1)
    several = SimpleNamespace(answers=answers, answer_tokens=2)
    against_all = measure(by_row(teacher), problems=several)
    assert abs(against_all['cka_circuits']) < 0.2
    assert against_all['by_class'] == [short[classes == k].mean() for k in range(K)]


def test_students_of_single_heads_are_measured_though_circuits_are_of_neurons(monkeypatch):
    rng = np.random.default_rng(0)
    rows = np.arange(N)
    heads = rng.normal(size=(N, 1, 4, 8)).astype(np.float32)  # [N, L, H, D]
    # Head 2 of the student does what head 0 of the teacher does.
    monkeypatch.setattr(
        student,
        'answer_logits_and_activations',
        lambda *_, **__: (np.zeros((N, 4)), heads[:, :, [3, 1, 0, 2]]),
    )
    pair = lambda of_student: ((Unit(1, of_student), Unit(1, 0)),)
    cka = {}
    for head in (1, 2):
        given = Given(Alignment(pair(head), site='head_out'), rows, GIVEN.teacher, GIVEN.student)
        store = TeacherStore(np.zeros((N, 1)), heads, (1,), 1, site='head_out')
        problems = SimpleNamespace(answers=np.zeros(N, int), answer_tokens=1)
        found = measure_unseen(None, problems, store, rows, given)
        assert found['cka_circuits'] is None
        cka[head] = found['cka_all']
        # Of KD those heads are trained that the others' arms train, no neurons.
        for own in (None, GIVEN.teacher):  # circuits of a student that does part of the task
            kd = Lesson(ARMS['kd'], dataclasses.replace(given, student=own), None, store, None)
            assert kd.paired is given.alignment
    assert cka[2] == pytest.approx(1, abs=1e-3)
    assert abs(cka[1]) < 0.3


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'arms': ('kd', 'circiuts')},
            r'arms=kd,circiuts: did you mean circuits or one_circuit\? choose from '
            + ', '.join(ARMS),
        ),
        ({'arms': ('kd', 'kd')}, 'arms=kd,kd: .*, each of them once'),
        ({'starts': ('zero',)}, 'starts=zero: choose from nothing, partial, checkpoint'),
        ({'head_start_steps': 0}, 'head_start_steps=0'),
        ({'max_problems': 0}, 'arm_problems=0: at least 1'),
        ({'seeds': ()}, 'name at least one'),
        ({'seeds': (1, 1)}, 'each of them once'),
        ({'seeds': (-1,)}, 'seeds=-1 must not be negative'),
        ({'evaluate_every': 0}, 'evaluate_every=0'),
        ({'circuits': 'real'}, 'circuits=real: choose from found, planted'),
        ({'training_problems': (8, 8)}, 'training_problems=8,8: name each of them once'),
        ({'alignment': Alignment(site='mlp_out')}, 'leave out circuits, random, wrong'),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)
