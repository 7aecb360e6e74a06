"""CKA within classes against loops over subsets, and the memory against a deque for each class."""

from collections import deque

import jax
import jax.numpy as jnp
import loss_references as reference
import numpy as np
import pytest
from quick_jit import quick_jit

from cdjax import losses

N, K, P, Q, M = 60, 3, 40, 56, 8


@quick_jit
def measure(x, y, z, x_masks, y_masks, memory):
    """Class CKAs with and without a memory, the loss and its gradients to models and masks."""

    def loss(x, y, x_masks, y_masks):
        return losses.class_conditional_cka_loss(
            x, y, z, student_masks=x_masks, teacher_masks=y_masks, memory=memory
        )

    plain = losses.class_conditional_cka(x, y, z, x_masks=x_masks, y_masks=y_masks)
    arguments = x, y, x_masks, y_masks
    (value, told), gradients = jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)(*arguments)
    remembered = losses.class_conditional_cka(
        x, y, z, x_masks=x_masks, y_masks=y_masks, memory=memory, min_count=9
    )
    return plain, remembered, (value, told['classes_left_out']), gradients


push = quick_jit(losses.RowMemory.push)


def problem(counts=(30, 18, 12), seed=0, shared=1.0):
    rng = np.random.default_rng(seed)
    common = shared * rng.normal(size=(N, 4))
    x = 2 + rng.normal(size=(N, P)) + common @ rng.normal(size=(4, P))
    y = 2 + rng.normal(size=(N, Q)) + common @ rng.normal(size=(4, Q))
    z = np.repeat(np.eye(K), counts, axis=0)
    masks = [(rng.random((K, width)) < 0.3).astype(float) for width in (P, Q)]
    return x, y, z, *masks


def float32(*arrays):
    return [np.asarray(array, np.float32) for array in arrays]


def empty():
    return losses.RowMemory.empty(K, M, P, Q)


def test_each_class_has_the_cka_of_its_rows_and_its_columns():
    for counts in ((30, 18, 12), (56, 4, 0), (57, 3, 0)):
        arrays = problem(counts)
        cka, _, (loss, left_out), _ = measure(*float32(*arrays), empty())
        expected = reference.class_cka(*arrays)
        assert list(cka.valid) == [count >= 4 for count in counts]
        assert list(cka.counts) == list(counts)
        for value, target in zip(cka.values, expected, strict=True):
            assert float(value) == pytest.approx(target or 0.0, abs=1e-4)
        kept = [value for value in expected if value is not None]
        assert float(loss) == pytest.approx(1 - np.mean(kept), abs=1e-4)
        assert float(left_out) == 3 - len(kept) == float(cka.left_out())
        assert float(cka.mean()) == pytest.approx(np.mean(kept), abs=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_classes_far_from_0_keep_their_digits(dtype):
    x, y, z, x_masks, y_masks = problem((20, 20, 20))
    # Each class has means of its own, of 30 times the spread within it.
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (K, P + Q))
    x, y = (f + 30 * f.std() * z @ sign for f, sign in ((x, signs[:, :P]), (y, signs[:, P:])))
    given = [jnp.asarray(f, dtype) for f in (x, y)]
    if dtype == 'float32':
        cka, *_ = measure(*given, *float32(z, x_masks, y_masks), empty())
    else:
        cka = quick_jit(losses.class_conditional_cka)(*given, z, x_masks=x_masks, y_masks=y_masks)
    assert cka.values.dtype == jnp.float32
    same_bits = [np.asarray(f, np.float64) for f in given]
    for arguments, tolerance in ((same_bits, 1e-4), ((x, y), 1e-2)):
        expected = reference.class_cka(*arguments, z, x_masks, y_masks)
        np.testing.assert_allclose(cka.values, expected, atol=tolerance)


def test_independent_models_score_0_within_classes_and_almost_1_over_mixed_ones():
    # The trap: masks that differ by class put the same pattern of zeros into both models.
    within, mixed = [], []
    for seed in range(8):
        x, y, z, x_masks, y_masks = problem((20, 20, 20), seed, shared=0)
        cka, _, _, _ = measure(*float32(x, y, z, x_masks, y_masks), empty())
        within.append(float(cka.mean()))
        a, b = 2 + x * (z @ x_masks), 2 + y * (z @ y_masks)
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        mixed.append(np.sum((a.T @ b) ** 2) / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b))
    assert abs(np.mean(within)) < 0.05
    assert np.mean(mixed) > 0.8


def test_only_the_current_rows_of_the_student_get_a_gradient():
    arrays = float32(*problem((40, 17, 3)))
    _, _, (_, left_out), (to_student, *to_others) = measure(*arrays, empty())
    z, x_masks = arrays[2], arrays[3]
    gradient = np.asarray(to_student)
    assert float(left_out) == 1
    assert not any(np.asarray(gradient).any() for gradient in to_others)
    # Rows of the class that is left out, and columns outside a row's circuit, get none.
    assert not gradient[z[:, 2] == 1].any()
    assert not gradient[:57][(z @ x_masks)[:57] == 0].any()
    assert (gradient[:57][(z @ x_masks)[:57] == 1] != 0).mean() > 0.99


def test_with_no_class_large_enough_there_is_nothing_to_align():
    x, y, z, x_masks, y_masks = float32(*problem())
    z = z * (np.cumsum(z, axis=0) <= 3)  # Three rows a class; the others belong to none.
    cka, _, (loss, left_out), (gradient, *_) = measure(x, y, z, x_masks, y_masks, empty())
    assert list(cka.counts) == [3, 3, 3]
    assert float(loss) == 0
    assert float(left_out) == 3
    assert not np.asarray(gradient).any()


def test_memory_keeps_the_last_rows_of_each_class():
    memory, kept = empty(), [deque(maxlen=M) for _ in range(K)]
    rng = np.random.default_rng(0)
    for counts in ((4, 3, 0), (0, 2, 1), (11, 1, 2), (3, 9, 0), (5, 5, 1)):
        x, y, *_ = float32(*problem(seed=int(rng.integers(1000))))
        classes = np.concatenate([np.repeat(np.arange(K), counts), np.full(N - sum(counts), -1)])
        classes = rng.permutation(classes)
        z = (classes[:, None] == np.arange(K)).astype(np.float32)
        memory = push(memory, x, y, z)
        for row, k in enumerate(classes):
            if k >= 0:
                kept[k].append((x[row], y[row]))
        for k in range(K):
            stored = np.concatenate([memory.student[k], memory.teacher[k]], axis=1)
            stored = stored[np.asarray(memory.filled[k])]
            expected = np.array([np.concatenate(pair) for pair in kept[k]]).reshape(-1, P + Q)
            order = lambda rows: rows[np.lexsort(rows.T)]
            np.testing.assert_array_equal(order(stored), order(expected))


def test_past_rows_make_a_small_class_large_enough_and_carry_no_gradient():
    x, y, z, x_masks, y_masks = float32(*problem((40, 17, 3)))
    past_x, past_y, past_z, *_ = float32(*problem((52, 2, 6), seed=1))
    memory = push(empty(), past_x, past_y, past_z)
    _, cka, (loss, left_out), (gradient, *_) = measure(x, y, z, x_masks, y_masks, memory)
    assert list(cka.counts) == [48, 19, 9]
    assert float(left_out) == 0
    last_rows = [slice(44, 52), slice(52, 54), slice(54, 60)]
    expected = []
    for k, rows in enumerate(last_rows):
        both = [
            np.concatenate([now[z[:, k] == 1], past[rows]]).astype(np.float64)[:, mask[k] == 1]
            for now, past, mask in ((x, past_x, x_masks), (y, past_y, y_masks))
        ]
        expected.append(reference.cka(*both))
    np.testing.assert_allclose(cka.values, expected, atol=1e-4)
    assert float(loss) == pytest.approx(1 - np.mean(expected), abs=1e-4)
    assert np.abs(np.asarray(gradient)[z[:, 2] == 1]).max() > 0

    def through_memory(past):
        remembered = empty().push(past, past_y, past_z)
        return losses.class_conditional_cka(x, y, z, memory=remembered).mean()

    assert not quick_jit(jax.grad(through_memory))(past_x).any()


def test_padding_rows_belong_to_no_class():
    x, y, z, *_ = float32(*problem())
    where = np.arange(N) % 2 == 0
    x[~where] = np.nan
    cka = quick_jit(losses.class_conditional_cka)(x, y, z, where=where)
    assert list(cka.counts) == [15, 9, 6]
    everything = np.ones((K, P)), np.ones((K, Q))
    subset = (f[where].astype(np.float64) for f in (x, y, z))
    np.testing.assert_allclose(cka.values, reference.class_cka(*subset, *everything), atol=1e-4)
    memory = push(empty(), x, y, z, where=where)
    assert not jnp.isnan(memory.student).any()


def test_a_least_count_below_the_definition_is_refused():
    x, y, z, *_ = problem()
    with pytest.raises(ValueError, match='min_count=3'):
        losses.class_conditional_cka(x, y, z, min_count=3)
    with pytest.raises(AssertionError):
        jax.eval_shape(lambda: losses.class_conditional_cka(x, y, z, x_masks=np.ones((K, Q))))
