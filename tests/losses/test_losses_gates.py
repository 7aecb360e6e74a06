"""Top-k gates against sorting and finite differences, their traps, and their shardings."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from quick_jit import quick_jit

from cdjax import losses

R, D, T = 6, 24, 0.25  # rows of scores, neurons, temperature


def by_sorting(scores, sizes):
    """The mask of the highest scores, the earlier of equal ones."""
    ranks = np.argsort(np.argsort(-np.float64(scores), axis=-1, kind='stable'), axis=-1)
    return ranks < np.asarray(sizes)[..., None]


def soft_reference(scores, size, temperature=T):
    """Rows of soft gates in float64, each threshold bisected until no number lies between."""
    s = np.float64(scores) / temperature
    low, high = s.min(-1, keepdims=True) - 100, s.max(-1, keepdims=True) + 100
    sigmoid = lambda x: np.exp(-np.logaddexp(0, -x))
    while np.any((low < (middle := (low + high) / 2)) & (middle < high)):
        above = sigmoid(s - middle).sum(-1, keepdims=True) > size
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return sigmoid(s - middle)


def finite_differences(scores, size, weights, step=1e-5):
    """The gradient of `weights · soft gates` with respect to each score of a row."""
    moved = step * np.eye(len(scores))
    up, down = (soft_reference(scores + move, size) @ weights for move in (moved, -moved))
    return (up - down) / (2 * step)


def gates(*arrays):
    """Mask, soft gates, gate, and the gradient of `weights · gate`, of scores, sizes, weights."""
    return jax.device_get(_gates(*arrays))


@quick_jit
def _gates(scores, sizes, weights):
    gate = lambda s: losses.top_k_gate(s, sizes, temperature=T)
    gradient = jax.grad(lambda s: jnp.sum(weights * gate(s)))(scores)
    soft = losses.soft_top_k(scores, sizes, temperature=T)
    return losses.top_k_mask(scores, sizes), soft, gate(scores), gradient


@pytest.fixture
def rng():
    return np.random.default_rng(0)


CASES = {
    'ordinary': lambda x: x,
    'ties': lambda x: np.round(2 * x) / 2,
    'all equal': lambda x: 0 * x,
    'signed zeros': lambda x: np.where(x > 0, 0.0, -0.0),
    'far from zero': lambda x: 100 + x,
    'close': lambda x: 1e-3 * x,
    'one above the rest': lambda x: np.where(np.arange(D) == 5, 2.0, 0.1 * x),
}


@pytest.mark.parametrize('case', CASES)
def test_gates_and_their_gradient(case, rng):
    scores = CASES[case](rng.normal(size=(R, D))).astype(np.float32)
    sizes = np.array([1, 2, 5, D // 2, D - 2, D - 1])
    weights = rng.normal(size=(R, D)).astype(np.float32)
    mask, soft, gate, gradient = gates(scores, sizes, weights)
    np.testing.assert_array_equal(mask, by_sorting(scores, sizes))
    np.testing.assert_array_equal(gate, mask)
    np.testing.assert_allclose(soft.sum(axis=1), sizes, rtol=1e-5)
    for r in range(R):
        np.testing.assert_allclose(soft[r], soft_reference(scores[r], sizes[r]), atol=2e-5)
        expected = finite_differences(scores[r], sizes[r], np.float64(weights[r]))
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(gradient[r], expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-5)


def test_a_size_is_exact_whatever_is_equal(rng):
    # 3 values for 24 neurons: every threshold is shared by several.
    scores = np.repeat(rng.integers(3, size=(1, D)), D + 1, axis=0).astype(np.float32)
    sizes = np.arange(D + 1)
    mask = jax.device_get(quick_jit(losses.top_k_mask)(scores, sizes))
    np.testing.assert_array_equal(mask.sum(axis=1), sizes)
    np.testing.assert_array_equal(mask, by_sorting(scores, sizes))


def test_far_apart_scores_saturate_without_nan():
    scores = np.where(np.arange(D) < 3, 50.0, -50.0).astype(np.float32)
    mask, soft, _, gradient = gates(
        np.tile(scores, (R, 1)), np.full(R, 3), np.tile(np.arange(D, dtype=np.float32), (R, 1))
    )
    np.testing.assert_allclose(soft, mask, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    # The threshold is bound to lie within the gap of two groups, whatever is left over.
    scores[:3] = [50.0, 49.9, 50.1]
    _, _, _, gradient = gates(
        np.tile(scores, (R, 1)), np.full(R, 2), np.tile(np.arange(D, dtype=np.float32), (R, 1))
    )
    assert np.abs(gradient[:, :3]).max() > 0.1
    np.testing.assert_allclose(gradient[:, 3:], 0, atol=1e-6)


@pytest.mark.parametrize('scale', [1e-36, 1e-20, 1e6, 1e20, 1e37])
def test_the_whole_range_of_float32(scale, rng):
    values = np.linspace(-1, 1, D).astype(np.float32) * np.float32(scale)
    scores = np.stack([rng.permutation(values) for _ in range(R)])
    sizes = np.array([1, 2, 5, D // 2, D - 2, D - 1])
    mask, soft, _, gradient = gates(scores, sizes, np.ones((R, D), np.float32))
    np.testing.assert_array_equal(mask, by_sorting(scores, sizes))
    assert np.isfinite(soft).all()
    assert np.isfinite(gradient).all()
    expected = mask if scale > 1 else np.broadcast_to(sizes[:, None] / D, (R, D))
    np.testing.assert_allclose(soft, expected, atol=1e-4)


def test_no_and_all_neurons(rng):
    scores, sizes = rng.normal(size=(R, D)).astype(np.float32), np.arange(R) % 2 * D
    mask, soft, _, gradient = gates(scores, sizes, np.ones((R, D), np.float32))
    np.testing.assert_array_equal(mask, np.broadcast_to(np.arange(R)[:, None] % 2, (R, D)))
    np.testing.assert_allclose(soft, mask, atol=1e-3)
    assert np.isfinite(gradient).all()


def test_two_axes_are_one_axis_of_all_their_neurons(rng):
    scores = np.round(rng.normal(size=(R, D)), 1).astype(np.float32)
    weights, sizes = rng.normal(size=(R, D)).astype(np.float32), np.arange(1, R + 1)

    @quick_jit
    def layered(scores):
        gate = lambda s: losses.top_k_gate(s, sizes, temperature=T, axis=(-2, -1))
        return jax.value_and_grad(lambda s: jnp.sum(weights.reshape(R, 3, 8) * gate(s)))(scores)

    value, gradient = layered(scores.reshape(R, 3, 8))
    _, _, gate, expected = gates(scores, sizes, weights)
    assert float(value) == pytest.approx(float((weights * gate).sum()), rel=1e-5)
    np.testing.assert_allclose(np.asarray(gradient).reshape(R, D), expected, atol=1e-5)


def test_one_compilation_serves_all_sizes_and_vmap_is_a_loop(rng):
    scores = rng.normal(size=(R, D)).astype(np.float32)
    compiled = quick_jit(lambda s, k: losses.top_k_gate(s, k, temperature=T))
    one_by_one = [compiled(scores[r], np.int32(2 * r + 1)) for r in range(R)]
    assert compiled._cache_size() == 1
    together = quick_jit(jax.vmap(lambda s, k: losses.top_k_gate(s, k, temperature=T)))
    np.testing.assert_array_equal(together(scores, np.arange(R) * 2 + 1), one_by_one)


def test_a_size_for_each_of_two_leading_axes(rng):
    scores = rng.normal(size=(3, 2, D)).astype(np.float32)
    sizes = np.array([[1, 2], [3, 4], [5, 6]])
    top_k_mask = quick_jit(losses.top_k_mask)
    found = np.asarray(top_k_mask(scores, sizes))
    np.testing.assert_array_equal(found.sum(axis=-1), sizes)
    found = np.asarray(top_k_mask(scores, sizes[:, :1]))
    np.testing.assert_array_equal(found.sum(axis=-1), sizes[:, [0, 0]])


@pytest.mark.parametrize('size', [-1, D + 1])
def test_an_impossible_size_is_named(size):
    with pytest.raises(ValueError, match=f'size={size}: .* 0 to {D}'):
        losses.top_k_mask(jnp.zeros(D), size)


def test_a_temperature_of_zero_is_named():
    with pytest.raises(ValueError, match='temperature=0 must be above 0'):
        jax.eval_shape(lambda s: losses.soft_top_k(s, 1, temperature=0), jnp.zeros(D))


# --- sharded over neurons -------------------------------------------------------------------

# All neurons of Llama-3.1-8B, in layers.
LAYERS, WIDTH = 32, 14336


@pytest.mark.parametrize('layered', [False, True])
def test_split_neurons_are_never_gathered(layered, rng):
    shape, axis = ((4, 8, 256), (-2, -1)) if layered else ((4, 2048), -1)
    scores = np.round(rng.normal(size=shape), 2).astype(np.float32)  # with ties
    weights = rng.normal(size=shape).astype(np.float32)
    sizes = np.array([1, 20, 700, 2047])

    def gate_and_gradient(scores, weights):
        gate = lambda s: losses.top_k_gate(s, sizes, temperature=T, axis=axis)
        return gate(scores), jax.grad(lambda s: jnp.sum(weights * gate(s)))(scores)

    auto = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((1, 8), ('fsdp', 'tensor'), axis_types=auto, devices=jax.devices()[:8])
    split = NamedSharding(mesh, PartitionSpec(*(None,) * (len(shape) - 1), 'tensor'))
    program = quick_jit(gate_and_gradient, in_shardings=split, out_shardings=split)
    text = program.lower(scores, weights).compile().as_text()
    assert 'all-reduce' in text
    assert not re.findall(r'all-gather|all-to-all|collective-permute', text)
    # What is summed over devices has one number for each row.
    reduced = re.findall(r'= \(?(\w+\[[\d,]*\])[^=]* all-reduce\(', text)
    sizes_of = [np.prod([int(n) for n in re.findall(r'\d+', s.partition('[')[2])]) for s in reduced]
    assert len(sizes_of) > 2
    assert max(sizes_of) <= 4
    for one, eight in zip(
        quick_jit(gate_and_gradient)(scores, weights), program(scores, weights), strict=True
    ):
        np.testing.assert_allclose(eight, one, atol=1e-5)


def test_membership_of_split_neurons_needs_no_other_device(rng):
    logits = 3 * rng.normal(size=(4, 5, 2, 256)).astype(np.float32)

    def scores_and_gradient(logits):
        scores = losses.membership_scores
        return scores(logits), jax.grad(lambda x: jnp.sum(scores(x) ** 2))(logits)

    mesh = jax.make_mesh((8,), ('tensor',), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])
    split = NamedSharding(mesh, PartitionSpec(None, None, None, 'tensor'))
    program = quick_jit(scores_and_gradient, in_shardings=split, out_shardings=split)
    text = program.lower(logits).compile().as_text()
    assert not re.findall(r'all-reduce|all-gather|all-to-all|collective-permute', text)
    for one, eight in zip(quick_jit(scores_and_gradient)(logits), program(logits), strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-4)


def test_the_neurons_of_a_large_model(rng):
    scores = rng.normal(size=(1, LAYERS, WIDTH)).astype(np.float32)

    # Optimised a little: what half a million neurons take is no longer compilation.
    @functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': '1'})
    def both(scores, size):
        soft = losses.soft_top_k(scores, size, temperature=T, axis=(1, 2))
        return losses.top_k_mask(scores, size, axis=(1, 2)), soft

    for share in (1e-5, 0.01, 0.5):
        size = round(share * LAYERS * WIDTH)
        mask, soft = map(np.asarray, both(scores, size))
        assert int(mask.sum()) == size
        assert np.float64(soft).sum() == pytest.approx(size, rel=1e-5)
        assert scores[mask > 0].min() > scores[mask == 0].max()


# --- hard-concrete gates and sizes ----------------------------------------------------------


def test_membership_is_the_odds_of_a_softmax(rng):
    logits = 3 * rng.normal(size=(5, 4, 2, 7))
    q = np.exp(np.insert(logits, 0, 0.0, axis=1))
    q /= q.sum(axis=1, keepdims=True)
    inside = q[:, 1:2] + q[:, 2:]
    scores = quick_jit(losses.membership_scores)(logits.astype(np.float32))
    assert scores.shape == (5, 3, 2, 7)
    np.testing.assert_allclose(scores, np.log(inside / (1 - inside)), atol=1e-4)


def test_membership_that_is_beyond_doubt_is_finite_and_has_a_gradient():
    sure = np.array([0.0, 60.0, -60.0], np.float32).reshape(3, 1, 1)
    scores = np.asarray(quick_jit(losses.membership_scores)(sure))
    assert np.isfinite(scores).all()
    assert scores[0, 0, 0] > 10
    assert scores[1, 0, 0] < -10
    gradient = quick_jit(jax.grad(lambda x: losses.membership_scores(x).sum()))(sure)
    assert np.isfinite(gradient).all()
    # What only a class of its own has may still come to be shared.
    assert np.asarray(gradient)[0, 0, 0] > 0


def test_hard_concrete_gates_open_as_often_as_their_formula_says(rng):
    logits = np.repeat(np.linspace(-4, 4, 9), 20000).reshape(9, -1).astype(np.float32)
    noise = rng.logistic(size=logits.shape).astype(np.float32)
    gate = np.asarray(quick_jit(losses.hard_concrete_gate)(logits, noise))
    opened = np.asarray(quick_jit(losses.hard_concrete_open)(logits))
    np.testing.assert_allclose((gate > 0).mean(axis=1), opened[:, 0], atol=0.01)
    # By symmetry a gate is 1 as often as its opposite is 0.
    np.testing.assert_allclose((gate == 1).mean(axis=1), 1 - opened[::-1, 0], atol=0.01)
    # Eq. 10 and 11 of the paper, in its own letters.
    u = 1 / (1 + np.exp(-np.float64(noise)))
    s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + logits) / (2 / 3)))
    np.testing.assert_allclose(gate, np.clip(s * 1.2 - 0.1, 0, 1), atol=1e-4)
    fixed = quick_jit(losses.hard_concrete_gate)(logits)
    np.testing.assert_allclose(fixed, np.clip(1.2 / (1 + np.exp(-logits)) - 0.1, 0, 1), atol=1e-5)


def test_sizes_are_log_uniform_one_from_each_stratum():
    keys = jax.random.split(jax.random.key(0), 500)
    draw = quick_jit(jax.vmap(lambda key: losses.log_uniform_sizes(key, 8, 100, 50000)))
    sizes = np.asarray(draw(keys))
    edges = 100 * 500 ** (np.arange(9) / 8)
    assert (sizes >= np.floor(edges[:-1])).all()
    assert (sizes <= np.ceil(edges[1:])).all()
    within = np.log(sizes / edges[:-1]) / np.log(edges[1:] / edges[:-1])
    np.testing.assert_allclose(within.mean(axis=0), 0.5, atol=0.05)
    np.testing.assert_allclose(within.std(axis=0), 12**-0.5, atol=0.03)


def test_sizes_of_a_small_model_are_whole_neurons():
    draw = jax.jit(losses.log_uniform_sizes, static_argnums=(1, 2, 3))
    sizes = draw(jax.random.key(0), 8, 1, 3)
    assert sizes.dtype == jnp.int32
    assert set(sizes.tolist()) == {1, 2, 3}
    assert set(draw(jax.random.key(0), 4, 5, 5).tolist()) == {5}
