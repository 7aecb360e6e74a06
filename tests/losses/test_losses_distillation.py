"""Distillation losses against float64 sums, and what each must not do."""

import jax
import jax.numpy as jnp
import loss_references as reference
import numpy as np
import pytest
from quick_jit import quick_jit

from cdjax import losses

N, V, P, Q = 6, 9, 4, 7
ALL = np.ones(N, bool)


@quick_jit
def measure(student, teacher, where):
    """KD in both directions and from stored tokens, with gradients to student and teacher."""
    values = {}
    for name, loss in {
        'forward': lambda s, t: losses.kd_loss(s, t, temperature=2, where=where),
        'reverse': lambda s, t: losses.kd_loss(
            s, t, temperature=2, direction='reverse', where=where
        ),
        'top 3': lambda s, t: losses.topk_kd_loss(
            s, losses.TopKLogits.from_logits(t, 3, temperature=2), where=where
        ),
        'top V': lambda s, t: losses.topk_kd_loss(
            s, losses.TopKLogits.from_logits(t, V, temperature=2), where=where
        ),
    }.items():
        values[name] = jax.value_and_grad(loss, (0, 1))(student, teacher)
    return values


def logits(seed=0, scale=4.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(2, N, V))


def expected(student, teacher):
    student, teacher = student / 2, teacher / 2
    top3 = []
    for s, t in zip(student, teacher, strict=True):
        p, q = reference.softmax(t), reference.softmax(s)
        kept = np.argsort(-p)[:3]
        top3.append(
            reference.kl(
                np.append(p[kept], 1 - p[kept].sum()), np.append(q[kept], 1 - q[kept].sum())
            )
        )
    forward = reference.mean_kl(teacher, student)
    return {
        'forward': 4 * forward,
        'reverse': 4 * reference.mean_kl(student, teacher),
        'top 3': 4 * np.mean(top3),
        'top V': 4 * forward,
    }


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_kd_agrees_with_float64_sums(dtype):
    exact = logits()
    given = [jnp.asarray(side, dtype) for side in exact]
    values = measure(*given, ALL)
    for name, target in expected(*(np.asarray(g, np.float64) for g in given)).items():
        assert values[name][0].dtype == jnp.float32
        assert float(values[name][0]) == pytest.approx(target, rel=1e-4), name
    for name, target in expected(*exact).items():
        assert float(values[name][0]) == pytest.approx(target, rel=1e-2), name


def test_kd_trains_the_student_alone_and_padding_rows_train_nothing():
    where = np.arange(N) != 2
    student, teacher = logits()
    student[2], teacher[2] = np.nan, np.inf
    for name, (value, (to_student, to_teacher)) in measure(student, teacher, where).items():
        subset = expected(student[where], teacher[where])
        assert float(value) == pytest.approx(subset[name], rel=1e-4), name
        assert np.isfinite(to_student).all(), name
        assert not np.asarray(to_student)[2].any(), name
        assert np.abs(to_student)[where].max() > 1e-3, name
        assert not np.asarray(to_teacher).any(), name


def test_gradient_keeps_its_size_when_the_temperature_changes():
    # Hinton et al. 2015, eq. 4: at high T it is (s - t) / V, whatever T.
    student, teacher = logits(scale=1.0)
    student, teacher = (side - side.mean(axis=1, keepdims=True) for side in (student, teacher))
    gradient = quick_jit(jax.grad(lambda s, t: losses.kd_loss(s, teacher, temperature=t)))
    for temperature in (100.0, 1000.0):
        np.testing.assert_allclose(
            N * gradient(student, temperature), (student - teacher) / V, atol=0.01
        )


def test_saturated_and_impossible_tokens_leave_finite_losses_and_gradients():
    student, teacher = np.full((N, V), -1e4), np.full((N, V), -np.inf)
    student[:, 0], teacher[:, 1] = 1e4, 0
    for name, (value, (gradient, _)) in measure(student, teacher, ALL).items():
        if name != 'reverse':  # The student is sure of what the teacher excludes: infinite.
            assert float(value) == pytest.approx(4 * 1e4, rel=1e-3), name
            assert np.isfinite(gradient).all(), name
    same = measure(student, student, ALL)
    for name, (value, (gradient, _)) in same.items():
        assert float(value) == 0, name
        assert np.isfinite(gradient).all(), name


def test_top_k_is_a_lower_bound_and_does_not_call_the_rest_impossible():
    values = {name: float(value) for name, (value, _) in measure(*logits(), ALL).items()}
    assert 0 < values['top 3'] < values['forward']
    assert values['top V'] == pytest.approx(values['forward'], rel=1e-5)
    # A student equal to the teacher has nothing to learn; renormalised over the top k it would
    # be told to move the rest of its mass.
    teacher = logits(scale=0.5)[1]
    value, (gradient, _) = measure(teacher, teacher, ALL)['top 3']
    assert float(value) == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_linear_map_explains_a_part_of_the_variance_by_class(dtype, activations):
    a, where = activations, np.arange(12) != 1
    projection = np.random.default_rng(1).normal(size=(P, Q))
    x_masks = (np.arange(P)[None] != np.arange(3)[:, None]).astype(float)
    explained = lambda *x: losses.linear_map_r2(
        *x, a['z'], student_masks=x_masks, teacher_masks=a['y_masks'], where=where
    )
    given = [jnp.asarray(x, dtype) for x in (a['x'], a['y'], projection)]
    r2, counts = quick_jit(explained)(*given)
    exact = [np.asarray(x, np.float64) for x in given]

    def by_hand(x, y, w):
        sides, rows_of = [], [np.flatnonzero(where & (a['z'][:, k] > 0)) for k in range(3)]
        for k, rows in enumerate(rows_of):
            centred = [side[rows] - side[rows].mean(axis=0) for side in (x, y)]
            sides.append((centred[0] * x_masks[k], centred[1] * a['y_masks'][k]))
        # The teacher is of unit size over all of its entries, those of the padding row too.
        scale = np.sqrt(sum((t**2).sum() for _, t in sides) / y.size)
        errors = [
            (((s @ w) * a['y_masks'][k] - t / scale) ** 2).sum() for k, (s, t) in enumerate(sides)
        ]
        totals = [((t / scale) ** 2).sum() for _, t in sides]
        return 1 - np.array(errors) / totals

    tolerance = 1e-4 if dtype == 'float32' else 0.05
    np.testing.assert_allclose(r2, by_hand(*exact), rtol=tolerance)
    np.testing.assert_array_equal(counts, [4, 4, 3])
    if dtype == 'bfloat16':
        return
    gradients = quick_jit(jax.grad(lambda *x: explained(*x)[0].sum(), (0, 1, 2)))(*given)
    assert not np.asarray(gradients[1]).any()
    for i in (0, 2):  # finite differences of the float64 sums, in one direction
        direction = np.random.default_rng(i).normal(size=exact[i].shape)
        moved = lambda step, i=i, direction=direction: [
            side + step * direction if j == i else side for j, side in enumerate(exact)
        ]
        slope = (by_hand(*moved(1e-5)).sum() - by_hand(*moved(-1e-5)).sum()) / 2e-5
        assert np.sum(np.float64(gradients[i]) * direction) == pytest.approx(slope, rel=1e-3)


def test_the_best_map_of_what_the_student_knows_is_a_loss_of_0(activations):
    x = activations['x']
    w = np.random.default_rng(0).normal(size=(P, Q))
    y = 5 + x @ w
    unit = (y - y.mean(axis=0)).std()
    pair = losses.ActivationPair(x, y, projection=w / unit)
    loss, told = quick_jit(lambda pair: losses.alignment_loss(pair, similarity='linear_map'))(pair)
    assert float(loss) == pytest.approx(0, abs=1e-5)
    assert float(told['classes_left_out']) == 0


def test_projection_keeps_the_variance_of_the_student():
    projection = np.asarray(
        quick_jit(losses.init_projection, static_argnums=(1, 2))(jax.random.key(0), 64, 48)
    )
    assert projection.shape == (64, 48)
    assert projection.std() == pytest.approx(1 / 8, rel=0.05)  # fmt: skip


@pytest.fixture(scope='module')
def activations():
    rng = np.random.default_rng(0)
    rows = 12
    x, y = rng.normal(size=(rows, P)), rng.normal(size=(rows, Q))
    y[:, :P] += x
    return {
        'student_logits': rng.normal(size=(rows, V)),
        'teacher_logits': rng.normal(size=(rows, V)),
        'x': x,
        'y': y,
        'z': np.repeat(np.eye(3), (5, 4, 3), axis=0),
        'x_masks': np.ones((3, P)),
        'y_masks': (np.arange(Q)[None] >= np.arange(3)[:, None]).astype(float),
        'labels': rng.integers(V, size=rows),
    }


def test_distillation_loss_is_the_task_and_the_weighted_alignment(activations):
    @quick_jit
    def loss(student_logits, teacher_logits, x, y, z, x_masks, y_masks, labels):
        by_class = losses.ActivationPair(x, y, z, x_masks, y_masks)
        pairs = [(x, y), by_class]
        stored = losses.TopKLogits.from_logits(teacher_logits, V, temperature=2.0)
        return [
            losses.distillation_loss(student_logits, *task, weight=0.5, **options)
            for task, options in (
                ((teacher_logits, pairs), {'temperature': 2.0}),
                ((stored, pairs[:1]), {'temperature': 2.0}),
                ((None, []), {'labels': labels}),
            )
        ]

    a = activations
    (full, terms), (stored, _), (labelled, none) = loss(**a)
    kd = 4 * reference.mean_kl(a['teacher_logits'] / 2, a['student_logits'] / 2)
    whole = 1 - reference.cka(a['x'], a['y'])
    classes = [
        value
        for value in reference.class_cka(a['x'], a['y'], a['z'], a['x_masks'], a['y_masks'])
        if value is not None
    ]
    assert len(classes) == 2
    alignment = whole + 1 - np.mean(classes)
    assert set(terms) == {'task', 'alignment', 'classes_left_out'}
    assert float(terms['task']) == pytest.approx(kd, rel=1e-4)
    assert float(terms['alignment']) == pytest.approx(alignment, abs=1e-4)
    assert float(terms['classes_left_out']) == 1
    assert float(full) == pytest.approx(kd + 0.5 * alignment, rel=1e-4)
    assert float(stored) == pytest.approx(kd + 0.5 * whole, rel=1e-4)
    chosen = [
        reference.softmax(row)[label]
        for row, label in zip(a['student_logits'], a['labels'], strict=True)
    ]
    assert float(labelled) == pytest.approx(-np.mean(np.log(chosen)), rel=1e-4)
    assert float(none['alignment']) == 0


def of_ones_own(x, y, where):
    return losses.rsa(x, y, where=where)


@pytest.mark.parametrize('similarity', ['procrustes', 'rsa', of_ones_own])
def test_other_similarities_are_the_mean_over_classes_of_their_own_rows_and_columns(
    activations, similarity
):
    a = activations
    where = np.arange(12) != 2

    def by_hand(x, y):
        x, y = x - x.mean(0), y - y.mean(0)
        if similarity == 'procrustes':
            norms = np.linalg.norm(x) * np.linalg.norm(y)
            return np.linalg.svd(x.T @ y, compute_uv=False).sum() / norms
        pairs = np.triu_indices(len(x), 1)
        distances = [((m[:, None] - m[None]) ** 2).sum(-1)[pairs] for m in (x, y)]
        return np.corrcoef(*distances)[0, 1]

    @quick_jit
    def both(x, y, z, x_masks, y_masks, where):
        pair = losses.ActivationPair(x, y, z, x_masks, y_masks)
        within = losses.alignment_loss(pair, similarity=similarity, where=where)
        return within, losses.alignment_loss(
            losses.ActivationPair(x, y), similarity=similarity, where=where
        )

    x = a['x'].copy()
    x[~where] = np.nan
    (within, told), (whole, of_whole) = both(x, a['y'], a['z'], a['x_masks'], a['y_masks'], where)
    assert float(whole) == pytest.approx(1 - by_hand(x[where], a['y'][where]), abs=1e-4)
    values = []
    for k in range(3):
        rows = where & (a['z'][:, k] > 0)
        if rows.sum() >= 4:
            values.append(by_hand(x[rows] * a['x_masks'][k], a['y'][rows] * a['y_masks'][k]))
    assert float(told['classes_left_out']) == 3 - len(values) > 0
    assert float(of_whole['classes_left_out']) == 0
    assert float(within) == pytest.approx(1 - np.mean(values), abs=1e-4)


def test_padding_rows_reach_no_part_of_the_sum(activations):
    where = np.arange(12) % 5 != 1

    def loss(student_logits, teacher_logits, x, y, z, x_masks, y_masks, labels, where=None):
        pairs = [(x, y), losses.ActivationPair(x, y, z, x_masks, y_masks)]
        stored = losses.TopKLogits.from_logits(teacher_logits, 3, temperature=2.0)
        options = {'weight': 0.5, 'temperature': 2.0, 'where': where, 'min_count': 2}
        options |= {'debiased': False}
        return [
            losses.distillation_loss(student_logits, teacher_logits, pairs, **options),
            losses.distillation_loss(student_logits, stored, pairs, **options),
            losses.distillation_loss(student_logits, None, pairs, labels=labels, **options),
        ]

    rows = ('student_logits', 'teacher_logits', 'x', 'y', 'z', 'labels')
    valid, padded = dict(activations), dict(activations)
    for name in rows:
        valid[name] = activations[name][where]
        padded[name] = activations[name].copy()
        # One class of the padding, whatever it is, must not grow by it; a label may be no token.
        padded[name][~where] = {'z': [1, 0, 0], 'labels': V}.get(name, np.nan)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5),
        quick_jit(loss)(**padded, where=where),
        quick_jit(loss)(**valid),
    )


def test_mistakes_name_the_value_and_the_remedy(activations):
    a = activations
    student, teacher = a['student_logits'], a['teacher_logits']
    stored = losses.TopKLogits(np.zeros((12, 2)), np.zeros((12, 2), int), 4.0)
    masked = losses.ActivationPair(a['x'], a['y'], student_masks=a['x_masks'])
    for message, call in {
        "direction='backward'": lambda: losses.kd_loss(student, teacher, direction='backward'),
        'temperature=0 must': lambda: losses.kd_loss(student, teacher, temperature=0),
        'k=10 must be from 1 to the number of tokens, 9': lambda: losses.TopKLogits.from_logits(
            teacher, 10
        ),
        'both are None': lambda: losses.distillation_loss(student, None, [], weight=1),
        'temperature=2 differs from the 4.0': lambda: losses.distillation_loss(
            student, stored, [], weight=1, temperature=2
        ),
        'temperature=.* differs from the 4.0': lambda: jax.eval_shape(
            lambda t: losses.distillation_loss(student, stored, [], weight=1, temperature=t), 4.0
        ),
        'student_masks of an ActivationPair belong to classes': lambda: losses.alignment_loss(
            masked
        ),
        "similarity='svcca'": lambda: losses.alignment_loss(masked, similarity='svcca'),
        'a projection is what linear_map needs': lambda: losses.alignment_loss(
            losses.ActivationPair(a['x'], a['y']), similarity='linear_map'
        ),
        'a memory of past rows is for CKA alone': lambda: losses.alignment_loss(
            losses.ActivationPair(
                a['x'], a['y'], a['z'], memory=losses.RowMemory.empty(3, 2, P, Q)
            ),
            similarity='rsa',
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)
