"""What units write and what the prediction owes to them, against loops and finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.pairs import Unit
from cdjax.distillation.readings import READINGS
from cdjax.distillation.store import OnlineTeacher, TeacherStore, Wanted, stacked_output
from cdjax.distillation.target import Target
from cdjax.errors import InputError
from cdjax.losses import alignment_loss
from cdjax.models import Capture, Edit

DATA = toy.dataset()[:24]
CLASSES = np.arange(24) % 2
RNG = np.random.default_rng(0)
MASKS = {side: RNG.random((2, toy.L, width)) < 0.5 for side, width in (('t', 32), ('s', 16))}
WRITTEN = Alignment(((1, 0),), CLASSES, MASKS['t'], MASKS['s'], reading='contributions')


@pytest.fixture(scope='module')
def store():
    return TeacherStore.build(toy.model(), DATA, layers=(0, 1), outputs=True)


def test_what_units_write_is_summed_over_those_of_a_problems_class(store):
    found = Target(WRITTEN, store)[np.array([3, 8])]
    W = np.asarray(toy.model().layers.mlp.down.weight[...], np.float64)[0]
    for row, n in zip(found, (3, 8), strict=True):
        a = store.activations[n, 0].astype(np.float64)
        expected = sum(a[u] * W[u] for u in np.flatnonzero(MASKS['t'][CLASSES[n], 0]))
        np.testing.assert_allclose(row[0], expected, rtol=1e-4, atol=1e-5)
    shuffled = dataclasses.replace(WRITTEN, teacher_rows=np.arange(24)[::-1])
    others = Target(dataclasses.replace(shuffled, classes=CLASSES[::-1]), store)
    np.testing.assert_allclose(others[np.array([23 - 3])], found[:1], rtol=1e-5)
    online = OnlineTeacher.build(toy.model(), DATA, Wanted(outputs=True))
    np.testing.assert_allclose(Target(WRITTEN, online)[np.array([3, 8])], found, rtol=1e-4)
    assert Target(WRITTEN, store).width == 16


def test_heads_write_by_the_rows_of_all_their_coordinates(store):
    of_heads = TeacherStore.build(toy.model(), DATA, site='head_out', outputs=True)
    masks = RNG.random((2, toy.L, 4)) < 0.5
    alignment = Alignment(((0, 1),), CLASSES, masks, site='head_out', reading='contributions')
    found = Target(alignment, of_heads)[np.arange(4)]
    W = np.asarray(toy.model().layers.attention.o.weight[...], np.float64)[1].reshape(4, 4, 16)
    kept = of_heads.activations[:4, 1] * masks[CLASSES[:4], 1][:, :, None]
    np.testing.assert_allclose(found[:, 0], np.einsum('nhc,hcd->nd', kept, W), rtol=1e-4, atol=1e-5)


def test_a_single_head_writes_by_its_own_rows():
    of_heads = TeacherStore.build(toy.model(), DATA, site='head_out', outputs=True)
    pairs = ((Unit(1, 1), Unit(0, 3)), (Unit(0, 0), Unit(1, 2)))
    alignment = Alignment(pairs, site='head_out', reading='contributions')
    target, (teacher, student) = (
        Target(alignment, of_heads),
        (
            toy.model(),
            toy.model(seed=1, student=True),
        ),
    )
    found, a = target[np.arange(4)], RNG.normal(size=(4, toy.L, 2, 4)).astype(np.float32)
    assert found.shape == (4, 2, *alignment.compared_shape(toy.teacher_config()))
    outputs = stacked_output(student, 'head_out')
    compared = alignment.placed(toy.one_device()).activation_pairs(a, found, outputs=outputs)
    rows = lambda model, head: np.asarray(model.layers.attention.o.weight[...], np.float64)[
        head.layer, 4 * head.unit : 4 * head.unit + 4
    ]
    for pair, (s, t) in zip(compared, pairs, strict=True):
        expected = of_heads.activations[:4, t.layer, t.unit] @ rows(teacher, t)
        np.testing.assert_allclose(pair.teacher, expected, rtol=1e-4, atol=1e-5)
        expected = a[:, s.layer, s.unit] @ rows(student, s)
        np.testing.assert_allclose(pair.student, expected, rtol=1e-4, atol=1e-5)


def written_by_student(student, batch_activations, placed, teacher):
    (pair,) = placed.activation_pairs(
        batch_activations,
        teacher,
        jnp.asarray(CLASSES),
        outputs=stacked_output(student, 'neurons'),
    )
    return pair


def test_students_are_compared_by_what_their_units_write_and_learn_to_write(store):
    """The units of each row's class, in a basis of the stream; gradients by finite differences."""
    student, placed = toy.model(seed=1, student=True), WRITTEN.placed(toy.one_device())
    a = RNG.normal(size=(24, toy.L, 16)).astype(np.float32)
    target = jnp.asarray(Target(WRITTEN, store)[np.arange(24)])
    pair = written_by_student(student, a, placed, target)
    W = np.asarray(student.layers.mlp.down.weight[...], np.float64)[1]
    np.testing.assert_allclose(
        pair.student, (a[:, 1] * MASKS['s'][CLASSES, 1]) @ W, rtol=1e-3, atol=1e-4
    )
    assert pair.student_masks is pair.teacher_masks is None

    @jax.jit
    def loss(down, a):
        moved = jax.tree.map(lambda x: x, student)
        moved.layers.mlp.down.weight = type(moved.layers.mlp.down.weight)(down)
        return alignment_loss(written_by_student(moved, a, placed, target))[0]

    down = student.layers.mlp.down.weight[...]
    gradients = jax.jit(jax.grad(loss, (0, 1)))(down, a)
    for i, (x, gradient) in enumerate(zip((down, a), gradients, strict=True)):
        direction = RNG.normal(size=x.shape).astype(np.float32)
        at = lambda step, i=i, direction=direction: loss(
            *(side + step * direction if j == i else side for j, side in enumerate((down, a)))
        )
        slope = (float(at(1e-2)) - float(at(-1e-2))) / 2e-2
        assert float(jnp.sum(gradient * direction)) == pytest.approx(slope, rel=0.05, abs=1e-4)


@pytest.mark.parametrize('positions', [None, (1, 4)])
def test_attributions_are_activations_times_what_the_prediction_owes_them(positions):
    read = READINGS['attributions'].read
    model, tokens, lengths = toy.model(), DATA.tokens[:3], DATA.lengths[:3]
    _, found = jax.jit(
        lambda: read(model, tokens, lengths, site='neurons', layers=(1, 0), positions=positions)
    )()
    taken = jax.jit(lambda: model(tokens, capture=(Capture('neurons'),))[1])()

    @jax.jit
    def metric(shift):
        logits, _ = model(tokens, edits={'neurons': Edit(shift=shift)}, logits_at=lengths - 1)
        return logits.max(axis=-1) - logits.mean(axis=-1)

    for layer, neuron, position in ((0, 3, 4), (1, 5, 4)):
        shift = np.zeros((toy.L, 1, toy.T, toy.F), np.float32)
        shift[layer, :, position, neuron] = 3e-3
        slope = (metric(shift) - metric(-shift)) / 6e-3
        expected = taken['neurons'][layer, :, position, neuron] * slope
        place = found[:, 1 - layer]
        place = place if positions is None else place[:, positions.index(position)]
        np.testing.assert_allclose(place[:, neuron], expected, rtol=0.05, atol=1e-3)


def test_the_weight_of_an_attribution_is_held_fixed():
    read = READINGS['attributions'].read
    tokens, lengths = DATA.tokens[:3], DATA.lengths[:3]
    where = {'site': 'mlp_out', 'layers': (1,)}

    def by_hand(model, held):
        _, plain = READINGS['activations'].read(model, tokens, lengths, **where)
        _, weighted = read(held, tokens, lengths, **where)
        _, fixed = READINGS['activations'].read(held, tokens, lengths, **where)
        return jnp.sum(plain * weighted / fixed)

    def summed(model, _):
        return read(model, tokens, lengths, **where)[1].sum()

    gradients = jax.jit(lambda *models: [jax.grad(loss)(*models) for loss in (summed, by_hand)])
    found, expected = gradients(toy.model(), toy.model())
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3)


def test_a_site_whose_units_write_by_no_matrix_is_refused():
    with pytest.raises(InputError, match='align_site=mlp_out has none: choose from head_out, neur'):
        Alignment(site='mlp_out', reading='contributions')
    with pytest.raises(InputError, match="no reading 'sums': choose from activations"):
        Alignment(reading='sums')
    bare = TeacherStore.build(toy.model(), DATA, layers=(0, 1))
    with pytest.raises(InputError, match='holds no output matrices'):
        Target(WRITTEN, bare)
