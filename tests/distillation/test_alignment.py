"""What is compared: refused where it cannot be, and taken apart into pairs of arrays."""

import dataclasses

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.pairs import Unit
from cdjax.distillation.positions import locate
from cdjax.distillation.rare_classes import batch_with_enough
from cdjax.distillation.store import TeacherStore
from cdjax.errors import InputError
from cdjax.inference.activations import answer_logits_and_activations

PAIRS = ((0, 1), (1, 0))


def masks(K, units, seed=0):
    return np.random.default_rng(seed).random((K, 2, units)) < 0.5


def test_columns_are_those_of_the_paired_layers():
    classes = np.array([0, 1, 1])
    alignment = Alignment(PAIRS, classes, masks(2, 6), masks(2, 4, seed=1))
    placed = alignment.placed(toy.one_device())
    np.testing.assert_array_equal(placed.teacher_masks, alignment.teacher_masks[:, [1, 0]])
    np.testing.assert_array_equal(placed.student_masks, alignment.student_masks[:, [0, 1]])
    assert placed.classes is None
    assert (placed.num_classes, placed.pairs) == (2, PAIRS)
    bare = Alignment(PAIRS).placed(toy.one_device())
    assert bare.teacher_masks is bare.student_masks is None


def test_the_number_of_classes_is_that_of_the_masks_or_of_the_classes():
    classes = np.array([0, 1, 1])
    assert Alignment(PAIRS, classes).num_classes == 2
    assert Alignment(PAIRS, classes, masks(5, 6)).num_classes == 5
    assert Alignment(PAIRS, classes, student_masks=masks(4, 6)).num_classes == 4
    assert Alignment(PAIRS, classes, num_classes=7).num_classes == 7
    assert Alignment(PAIRS).num_classes is None


def test_leaves_are_the_arrays_and_shapes_decide_the_compilation():
    one, other = (
        Alignment(PAIRS, np.array([0, 1]), masks(2, 6, seed)).placed(toy.one_device())
        for seed in (0, 1)
    )
    assert len(jax.tree.leaves(one)) == 1
    assert jax.tree.structure(one) == jax.tree.structure(other)
    changed = dataclasses.replace(other, similarity='rsa')
    assert jax.tree.structure(one) != jax.tree.structure(changed)


@pytest.mark.parametrize('positions', [None, (1, 3)])
@pytest.mark.parametrize('site', ['neurons', 'head_out'])
def test_masks_of_units_cover_their_coordinates_at_all_positions(site, positions):
    shape = {'neurons': (6,), 'head_out': (3, 2)}[site]
    units, per_unit = shape[0], int(np.prod(shape[1:]))
    wide = () if positions is None else (2,)
    rng = np.random.default_rng(0)
    student = rng.normal(size=(5, 2, *wide, *shape))
    teacher = rng.normal(size=(5, 2, *wide, *shape))
    placed = Alignment(
        PAIRS, np.array([0, 1, 1, 0, 1]), masks(2, units), site=site, positions=positions
    ).placed(toy.one_device())
    pairs = placed.activation_pairs(student, teacher, np.array([0, 1, 1, 0, 1]))
    for i, pair in enumerate(pairs):
        np.testing.assert_array_equal(pair.student, student[:, PAIRS[i][0]].reshape(5, -1))
        np.testing.assert_array_equal(pair.teacher, teacher[:, i].reshape(5, -1))
        np.testing.assert_array_equal(pair.assignments, np.eye(2)[[0, 1, 1, 0, 1]])
        assert pair.student_masks is None
        for k in range(2):
            expected = np.repeat(masks(2, units)[k, PAIRS[i][1]], per_unit)
            expected = np.tile(expected, 1 if positions is None else 2)
            np.testing.assert_array_equal(pair.teacher_masks[k], expected)


@pytest.mark.parametrize('positions', [None, (1, 3)])
def test_single_heads_are_compared_alone(positions):
    wide = () if positions is None else (2,)
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(5, 2, *wide, 3, 2)) for _ in range(2))
    pairs = ((Unit(0, 2), Unit(1, 0)), (Unit(0, 1), Unit(0, 2)), (Unit(1, 0), Unit(0, 1)))
    alignment = Alignment(pairs, site='head_out', positions=positions)
    of_teacher = alignment.of_teacher(teacher[:, list(alignment.teacher_layers)])
    compared = alignment.placed(toy.one_device()).activation_pairs(student, of_teacher)
    for found, (s, t) in zip(compared, pairs, strict=True):
        of_head = lambda side, head: side[:, head.layer, ..., head.unit, :].reshape(5, -1)
        np.testing.assert_array_equal(found.student, of_head(student, s))
        np.testing.assert_array_equal(found.teacher, of_head(teacher, t))
    assert alignment.features_shape(toy.teacher_config()) == (*wide, 1, 4)


def test_single_heads_have_no_masks():
    with pytest.raises(InputError, match='pairs of single heads leave masks nothing'):
        Alignment(((Unit(0, 1), Unit(0, 1)),), np.zeros(3, int), masks(1, 3), site='head_out')


def test_a_store_at_another_site_and_positions():
    data = toy.dataset()[:6]
    store = TeacherStore.build(toy.model(), data, layers=(1,), site='mlp_out', positions=(0, 2))
    expected = answer_logits_and_activations(
        toy.model(), data, site='mlp_out', layers=(1,), positions=(0, 2)
    )[1]
    np.testing.assert_array_equal(store.of_layers([1, 1])[:, 1], expected[:, 0])
    shape = Alignment(site='mlp_out', positions=(0, 2)).features_shape(toy.teacher_config())
    assert store.activations.shape[2:] == shape
    assert store[:2].positions == (0, 2)
    with pytest.raises(InputError, match='name positions from 0 to 4'):
        TeacherStore.build(toy.model(), data, positions=(5,))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'site': 'gate'}, "no site 'gate'"),
        ({'similarity': 'svcca'}, "no similarity 'svcca': choose from cka, procrustes, rsa"),
        ({'min_count': 3}, 'min_count=3: at least 4'),
        ({'memory': -1}, 'row_memory=-1'),
        ({'positions': ()}, 'align_positions=: name'),
        ({'positions': (-1,)}, 'align_positions=-1: name positions from 0'),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        Alignment(PAIRS, **changes)


def test_batches_in_which_every_class_is_rare_are_refused_with_the_batch_that_would_do():
    alignment = Alignment(PAIRS, np.arange(60) % 6)
    assert alignment.check_batch(24) is None
    every = r'batch_size=23: every class has on average fewer than 4 .* take batch_size=37, .* 95 %'
    with pytest.raises(InputError, match=every):
        alignment.check_batch(23)
    one = dataclasses.replace(alignment, classes=np.array([0] * 56 + [1] * 4))
    assert 'take batch_size=60' in one.check_batch(59)
    assert one.check_batch(59).endswith('or a row memory')
    assert one.check_batch(60) is None
    assert dataclasses.replace(alignment, memory=3).check_batch(8) is None


def test_batches_in_parts_and_over_devices_are_advised_as_a_whole():
    alignment = Alignment(PAIRS, np.arange(600) % 6, num_classes=7)
    assert alignment.check_batch(48, microbatches=2) is None
    with pytest.raises(InputError, match=r'batch_size=44 in 2 microbatches: every class') as found:
        alignment.check_batch(44, microbatches=2)
    advised = batch_with_enough(100, 600, 4, microbatches=2, multiple=2)
    assert f'take batch_size={advised}, ' in str(found.value)
    assert 'row memory' not in str(found.value), 'which needs the whole batch'
    with pytest.raises(InputError, match=f'take batch_size={-(-advised // 16) * 16}, '):
        alignment.check_batch(44, microbatches=2, devices=8)
    rsa = dataclasses.replace(alignment, similarity='rsa')
    with pytest.raises(InputError, match=r'95 % of the time$'):
        rsa.check_batch(22)


def test_a_class_that_no_batch_has_enough_of():
    alignment = Alignment(PAIRS, np.array([0] * 57 + [1] * 3))
    told = alignment.check_batch(60)
    assert '1 of 2 classes have on average fewer than 4' in told
    assert 'the rarest has 3 of 60 problems, too few for any batch of them; take a larger' in told
    in_parts = alignment.check_batch(60, microbatches=2)
    assert in_parts.endswith('take a larger share, fewer classes or microbatches')


@pytest.mark.parametrize(
    ('name', 'expected'), [('answer', None), ('operands', (1, 3)), ('question', (1, 2, 3, 4))]
)
def test_positions_by_name(name, expected):
    """BOS, a, the operator, b, =: BOS is the same in all, and = too, but it is the question's."""
    found = locate(Alignment(positions=name), toy.dataset(), toy.tokenizer())
    assert found.positions == expected
    assert locate(found, toy.dataset(), toy.tokenizer()) is found


def test_positions_that_cannot_be_found():
    with pytest.raises(InputError, match='align_positions=all: write answer, operands, question, '):
        Alignment(positions='all')
    lengths = toy.dataset().lengths.copy()
    lengths[0] -= 1
    uneven = dataclasses.replace(toy.dataset(), lengths=lengths)
    with pytest.raises(InputError, match='prompts have 4 to 5 tokens, and no position'):
        locate(Alignment(positions='question'), uneven, toy.tokenizer())
    tokens = np.full_like(toy.dataset().tokens, toy.dataset().tokens[0, 2])
    wordy = dataclasses.replace(toy.dataset(), tokens=tokens)
    with pytest.raises(InputError, match='at no position do all prompts hold a number'):
        locate(Alignment(positions='operands'), wordy, toy.tokenizer())
