"""The arms, and how one that is added is known everywhere."""

import dataclasses

import numpy as np
import pytest

from cdjax.circuits.circuit import Circuit
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS, CIRCUITS, KD, Arm, Given, arms_by_default
from cdjax.distillation.arms.interchange import own_parts
from cdjax.distillation.pairs import Unit
from cdjax.errors import InputError
from cdjax.losses import TASKS
from cdjax.studies.arms import ArmsConfig, summarise

N, K = 40, 3
ROWS = np.array([3, 1, 17, 30])


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


BASE = Alignment(((1, 1),), similarity='rsa', min_count=6)
GIVEN = Given(
    BASE,
    ROWS,
    circuit(32, 100),
    circuit(16, 101),
    contribution=np.random.default_rng(0).random((2, 32)),
)
# Arms that are a way to compare.
OWN = dict.fromkeys(('fitnets', 'fitnets_random'), 'linear_map') | dict.fromkeys(
    ('interchange', 'interchange_random', 'interchange_wrong'), 'interchange'
)


def aligned(arm, given=GIVEN, **changes):
    return ARMS[arm].alignment(dataclasses.replace(given, **changes))


def test_kd_and_all_neurons_need_no_circuits():
    assert aligned('kd', Given(BASE)) is None
    assert aligned('all', Given(BASE)) is BASE
    assert not KD.interchanges(dataclasses.replace(BASE, similarity='interchange'))


def test_a_student_from_nothing_has_a_block_of_neurons_for_each_class():
    given = dataclasses.replace(GIVEN, student=None, student_shape=(2, 16))
    drawn = own_parts(given)
    assert drawn.shape == (K, 2, 16)
    assert not drawn[:, 0].any(), 'in the paired layer alone'
    assert drawn[:, 1].any(axis=1).all()
    assert drawn[:, 1].sum(axis=0).max() == 1
    # Of whatever is aligned, so that the mechanism of students of heads is asked for as well.
    heads = dataclasses.replace(BASE, pairs=((Unit(1, 3), Unit(1, 0)),), site='head_out')
    np.testing.assert_array_equal(own_parts(dataclasses.replace(given, alignment=heads)), drawn)


@pytest.mark.parametrize('arm', [key for key, arm in ARMS.items() if arm.align is not None])
def test_arms_keep_how_and_where_it_is_compared(arm):
    found = aligned(arm)
    similarity = OWN.get(arm, 'rsa')
    assert (found.similarity, found.min_count, found.site) == (similarity, 6, 'neurons')
    assert found.student_layers == (1,)
    # Known of a patched student before there are circuits: its step takes more memory.
    assert ARMS[arm].interchanges(BASE) == found.interchange
    assert ARMS[arm].interchanges(dataclasses.replace(BASE, similarity='interchange'))


def test_circuits_are_aligned_class_by_class():
    alignment = aligned('circuits')
    np.testing.assert_array_equal(alignment.classes, ROWS % K)
    np.testing.assert_array_equal(alignment.teacher_masks, GIVEN.teacher.masks)
    np.testing.assert_array_equal(alignment.student_masks, GIVEN.student.masks)
    assert alignment.num_classes == K
    assert aligned('circuits', student=None).student_masks is None


def test_wrong_circuits_are_the_teachers_of_another_class():
    alignment = aligned('wrong')
    for k in range(K):
        np.testing.assert_array_equal(alignment.teacher_masks[k], GIVEN.teacher.masks[k - 1])
    np.testing.assert_array_equal(alignment.student_masks, GIVEN.student.masks)
    np.testing.assert_array_equal(alignment.classes, ROWS % K)


def test_random_circuits_match_each_layer_and_differ_by_seed():
    first, again, other = (aligned('random', seed=seed) for seed in (0, 0, 1))
    for side in ('teacher', 'student'):
        ours = getattr(GIVEN, side).masks
        drawn = getattr(first, f'{side}_masks')
        np.testing.assert_array_equal(drawn.sum(-1), ours.sum(-1))
        assert (drawn != ours).any()
        np.testing.assert_array_equal(drawn, getattr(again, f'{side}_masks'))
        assert (drawn != getattr(other, f'{side}_masks')).any()
    np.testing.assert_array_equal(first.classes, ROWS % K)


def test_the_factorial_differs_in_one_factor_at_a_time():
    circuits, union = aligned('circuits'), GIVEN.teacher.masks.any(axis=0)
    within = aligned('all_classes')
    assert within.teacher_masks is within.student_masks is None
    np.testing.assert_array_equal(within.classes, circuits.classes)
    one = aligned('one_circuit')
    assert (one.num_classes, set(one.classes)) == (1, {0})
    np.testing.assert_array_equal(one.teacher_masks, union[None])
    rest = aligned('rest')
    np.testing.assert_array_equal(rest.classes, circuits.classes)
    for k in range(K):
        np.testing.assert_array_equal(rest.teacher_masks[k], ~union)
    rows = np.arange(N)
    for key, masks in (('all_random_classes', None), ('random_classes', GIVEN.teacher.masks)):
        first, again, other = (aligned(key, rows=rows, seed=seed).classes for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        assert (first != rows % K).any()
        np.testing.assert_array_equal(np.bincount(first), np.bincount(rows % K))
        assert np.array_equal(aligned(key).teacher_masks, masks) or masks is None
    assert aligned('all_random_classes').teacher_masks is None


def test_random_neurons_and_the_rest_in_every_way_of_comparing():
    union = GIVEN.teacher.masks.any(axis=0)
    equal, one, shuffled = map(aligned, ('random_equal', 'one_random', 'random_classes_equal'))
    np.testing.assert_array_equal(shuffled.teacher_masks, equal.teacher_masks)
    np.testing.assert_array_equal(one.teacher_masks.shape, (1, 2, 32))
    assert not (one.teacher_masks[0, 0] & union[0]).any()
    assert one.student_masks.sum() == GIVEN.student.masks.any(axis=0).sum()
    assert set(one.classes) == {0}
    rest, of_all = aligned('random_classes_rest'), aligned('one_rest')
    np.testing.assert_array_equal(rest.teacher_masks, aligned('rest').teacher_masks)
    np.testing.assert_array_equal(of_all.teacher_masks, ~union[None])
    np.testing.assert_array_equal(of_all.student_masks, ~GIVEN.student.masks.any(axis=0)[None])
    for alignment in (shuffled, rest):
        assert (alignment.classes != equal.classes).any()


@pytest.mark.parametrize('key', ['fitnets', 'attributions', 'contributions', 'interchange'])
def test_every_reading_has_a_control_that_differs_in_the_columns_alone(key):
    ours, random = aligned(key), aligned(f'{key}_random')
    assert (ours.teacher_masks != random.teacher_masks).any()
    same = dataclasses.replace(
        random, teacher_masks=ours.teacher_masks, student_masks=ours.student_masks
    )
    for field in dataclasses.fields(ours):
        np.testing.assert_array_equal(getattr(same, field.name), getattr(ours, field.name))


def test_what_is_one_classes_own_is_aligned_on_its_problems_alone():
    for k, key in enumerate(('first_circuit', 'second_circuit')):
        found = aligned(key)
        np.testing.assert_array_equal(found.classes, ROWS % K)
        for side in ('teacher', 'student'):
            masks = getattr(found, f'{side}_masks')
            circuits = getattr(GIVEN, side).masks
            core = circuits.mean(axis=0) > 0.5
            assert (circuits[k] & core).any()
            np.testing.assert_array_equal(masks[k], circuits[k] & ~core)
            assert not np.delete(masks, k, axis=0).any()


@pytest.mark.parametrize(
    ('pairs', 'swapped'),
    [
        (((1, 1),), ((1, 0),)),
        (((0, 0), (1, 1)), ((0, 1), (1, 0))),
        (((0, 0), (1, 0)), ((0, 1), (1, 1))),
    ],
)
def test_swapped_layers_are_never_those_that_are_paired(pairs, swapped):
    base = dataclasses.replace(BASE, pairs=pairs)
    found = aligned('swapped', alignment=base)
    assert found.pairs == swapped
    np.testing.assert_array_equal(found.teacher_masks, GIVEN.teacher.masks)
    flat = dataclasses.replace(GIVEN.teacher, masks=GIVEN.teacher.masks[:, :1])
    with pytest.raises(InputError, match='at least 2 layers'):
        aligned('swapped', teacher=flat)


def test_shuffled_rows_stay_in_their_class():
    rows = np.arange(N)
    found = aligned('shuffled', rows=rows)
    assert sorted(found.teacher_rows) == list(rows)
    assert (found.teacher_rows != rows).mean() > 0.5
    np.testing.assert_array_equal(found.classes[found.teacher_rows], found.classes)


def test_arms_of_answers_alone_say_where_these_are_from():
    for key in TASKS:  # there is one of each, by the name of its answers
        assert ARMS[key].align is None
        assert ARMS[key].task == key
    assert {arm.task for arm in ARMS.values()} <= set(TASKS)


def test_wrong_circuits_need_two_classes():
    single = dataclasses.replace(GIVEN.teacher, masks=GIVEN.teacher.masks[:1])
    with pytest.raises(InputError, match=r"'wrong' needs at least 2 classes, and there are 1"):
        aligned('wrong', teacher=single)


def test_an_arm_of_a_users_own_is_run_by_default_and_named_in_the_table():
    mine = Arm('mine', 'KD + mine', 'mine', '#123456', align=lambda given: given.alignment)
    ARMS.add(mine)
    try:
        assert ArmsConfig().arms == (*arms_by_default()[:-1], 'mine')
        runs = [{'arm': key, 'seed': 0, 'unseen': 0.5, 'curve': []} for key in ('kd', 'mine')]
        row = summarise(runs, ['kd', 'mine'])[1]
    finally:
        ARMS.remove('mine')
    assert (row['title'], row['phrase'], row['colour']) == ('KD + mine', 'mine', '#123456')
    assert 'mine' not in ArmsConfig().arms
    with pytest.raises(InputError, match='arms=mine: choose from kd'):
        ArmsConfig(arms=('mine',))


def test_the_baseline_and_the_arm_that_is_studied_are_among_them():
    assert ARMS[KD.key] is KD
    assert ARMS[CIRCUITS.key] is CIRCUITS
    assert KD.align is None


def test_what_another_class_writes_is_the_control_of_what_a_class_writes():
    own, other = aligned('contributions'), aligned('contributions_wrong')
    assert own.reading == other.reading == 'contributions'
    np.testing.assert_array_equal(own.student_masks, other.student_masks)
    for k in range(K):
        np.testing.assert_array_equal(other.teacher_masks[k], own.teacher_masks[k - 1])
