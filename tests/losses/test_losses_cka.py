"""Linear CKA against float64 loops, its invariances, and the ways to get it wrong."""

import jax
import jax.numpy as jnp
import loss_references as reference
import numpy as np
import pytest
from jaxprs import largest_array
from quick_jit import quick_jit

from cdjax import losses

# One shape for each form, for a compilation costs more than all the arithmetic here.
N, NARROW, WIDE = 12, (5, 7), (30, 40)


def both(x, y, where=None):
    """Both CKAs."""
    return {
        'debiased': losses.linear_cka(x, y, where=where),
        'biased': losses.linear_cka(x, y, debiased=False, where=where),
    }


@quick_jit
def measure(x, y, where):
    """Both CKAs, their HSICs, and the gradients of `cka_loss` to student and teacher."""
    loss, gradients = jax.value_and_grad(losses.cka_loss, (0, 1))(x, y, where=where)
    biased = losses.hsic(x, y, debiased=False, where=where)
    hsic = losses.hsic(x, y, where=where)
    return both(x, y, where) | {
        'hsic': (hsic.xy, hsic.xx, hsic.yy),
        'biased hsic': (biased.xy, biased.xx, biased.yy),
        'loss': loss,
        'gradients': gradients,
    }


ALL = np.ones(N, bool)


def features(widths=NARROW, seed=0, mean=0.0, shared=1.0):
    """Two sets of features that share a part, around a mean of so many spreads."""
    rng = np.random.default_rng(seed)
    p, q = widths
    common = rng.normal(size=(N, 3))
    x = rng.normal(size=(N, p)) + shared * common @ rng.normal(size=(3, p))
    y = rng.normal(size=(N, q)) + shared * common @ rng.normal(size=(3, q))
    return x + mean * x.std(), y - mean * y.std()


def float32(*arrays):
    return [np.asarray(array, np.float32) for array in arrays]


@pytest.mark.parametrize('widths', [NARROW, WIDE], ids=['features', 'gram'])
def test_both_forms_agree_with_float64_loops(widths):
    for mean in (0, 30):
        x, y = features(widths, mean=mean)
        measured = measure(*float32(x, y), ALL)
        for name, debiased in (('debiased', True), ('biased', False)):
            expected = reference.cka(x, y, debiased)
            assert float(measured[name]) == pytest.approx(expected, abs=1e-4), (mean, name)
        for name, debiased in (('hsic', True), ('biased hsic', False)):
            x0, y0 = x - x.mean(axis=0), y - y.mean(axis=0)
            for pair, value in zip(((x0, y0), (x0, x0), (y0, y0)), measured[name], strict=True):
                expected = reference.hsic(*pair, debiased)
                assert float(value) == pytest.approx(expected, rel=1e-4), (mean, name)


@pytest.mark.parametrize('widths', [NARROW, WIDE], ids=['features', 'gram'])
def test_bfloat16_features_lose_no_more_than_their_own_rounding(widths):
    for mean in (0, 30):
        exact = features(widths, mean=mean)
        rounded = [jnp.asarray(f, jnp.bfloat16) for f in exact]
        measured = quick_jit(both)(*rounded, ALL)
        same_bits = [np.asarray(f, np.float64) for f in rounded]
        for name, debiased in (('debiased', True), ('biased', False)):
            assert measured[name].dtype == jnp.float32
            assert float(measured[name]) == pytest.approx(
                reference.cka(*same_bits, debiased), abs=1e-4
            )
            assert float(measured[name]) == pytest.approx(reference.cka(*exact, debiased), abs=1e-2)


def test_the_formula_without_centring_has_no_digits_left_at_a_mean_of_30():
    # What the centring is for: HSIC₁ as it stands, in float32, of features far from 0.
    x, y = float32(*features(WIDE, mean=30))
    k, g = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(g, 0)

    def hsic(k, g):
        cross = np.float32(2 / (N - 2)) * (k.sum(0) @ g.sum(1))
        return np.sum(k * g) + k.sum() * g.sum() / np.float32((N - 1) * (N - 2)) - cross

    naive = hsic(k, g) / np.sqrt(np.abs(hsic(k, k) * hsic(g, g)))
    expected = reference.cka(*features(WIDE, mean=30))
    assert abs(naive - expected) > 1e-2
    assert float(measure(x, y, ALL)['debiased']) == pytest.approx(expected, abs=1e-4)


def test_the_cheaper_of_both_forms_is_taken():
    gradients = jax.grad(losses.linear_cka, (0, 1))
    # No Gram matrix of 4096 rows, and no product of 4096 and 2048 features.
    assert largest_array(gradients, (4096, 16), (4096, 24)) == 4096 * 24
    assert largest_array(gradients, (16, 4096), (16, 2048)) == 16 * 4096


def test_many_more_features_than_rows_keep_their_digits():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 8, 60_000)) + 3
    y[:, :600] += 9 * x[:, :600]
    value = float(quick_jit(losses.linear_cka)(*float32(x, y)))
    assert value == pytest.approx(reference.cka(x, y), abs=1e-4)


@pytest.mark.parametrize('widths', [NARROW, WIDE], ids=['features', 'gram'])
def test_padding_rows_change_nothing_whatever_they_hold(widths):
    x, y = float32(*features(widths))
    where = np.arange(N) % 3 != 0
    x[~where], y[~where] = np.nan, np.inf
    measured = measure(x, y, where)
    for name, debiased in (('debiased', True), ('biased', False)):
        expected = reference.cka(*(f[where].astype(np.float64) for f in (x, y)), debiased)
        assert float(measured[name]) == pytest.approx(expected, abs=1e-5)
    gradient = np.asarray(measured['gradients'][0])
    assert np.isfinite(gradient).all()
    assert not gradient[~where].any()
    assert gradient[where].all()


def test_fewer_than_four_rows_raise_where_the_number_is_known_and_give_0_where_it_is_not():
    three = np.ones((3, 5))
    with pytest.raises(ValueError, match='3 rows is not defined; give at least 4'):
        losses.linear_cka(three, three)
    with pytest.raises(ValueError, match='3 rows'):
        losses.minibatch_cka(three[None], three[None])
    measured = measure(*float32(*features()), np.arange(N) < 3)
    assert float(measured['debiased']) == 0
    assert not np.asarray(measured['gradients'][0]).any()
    expected = reference.cka(*(f[:3] for f in features()), debiased=False)
    assert float(measured['biased']) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(('rows', 'bias', 'deviation'), [(8, 0.998, 0.19), (32, 0.989, 0.04)])
def test_independent_features_score_0_debiased_and_almost_1_biased(rows, bias, deviation):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((24, rows, width), np.float32) for width in (2048, 4096))
    found = quick_jit(jax.vmap(both))(x, y)
    assert float(found['biased'].mean()) == pytest.approx(bias, abs=1e-3)
    assert abs(float(found['debiased'].mean())) < 3 * deviation / np.sqrt(24)
    assert float(found['debiased'].std()) == pytest.approx(deviation, rel=0.35)


def test_one_shared_outlier_is_a_biased_cka_of_one():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 64, 16))
    x[0] += 100
    y[0] += 100
    biased = lambda where: quick_jit(both)(*float32(x, y), where)['biased']
    assert float(biased(np.ones(64, bool))) > 0.999
    assert float(biased(np.arange(64) > 0)) < 0.4


def test_invariant_to_rotation_scale_and_translation_but_not_to_every_linear_map():
    x, y = features()
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    value = float(measure(*float32(x, y), ALL)['debiased'])
    for same in (x @ rotation, 1e12 * x, 1e-12 * x, x + rng.normal(size=5) * 9):
        assert float(measure(*float32(same, y), ALL)['debiased']) == pytest.approx(value, abs=1e-5)
    stretched = x @ (rotation * np.array([9, 1, 1, 1, 0.1]))
    assert abs(float(measure(*float32(stretched, y), ALL)['debiased']) - value) > 0.05


@pytest.mark.parametrize('widths', [NARROW, WIDE], ids=['features', 'gram'])
def test_gradient_is_that_of_finite_differences_and_stops_at_the_teacher(widths):
    x, y = features(widths)
    measured = measure(*float32(x, y), ALL)
    to_student, to_teacher = measured['gradients']
    direction = np.random.default_rng(1).normal(size=x.shape)
    up, down = (1 - reference.cka(x + step * direction, y) for step in (1e-5, -1e-5))
    assert float(np.sum(to_student * direction)) == pytest.approx((up - down) / 2e-5, abs=1e-4)
    assert not np.asarray(to_teacher).any()
    assert float(measured['loss']) == pytest.approx(1 - reference.cka(x, y), abs=1e-4)


def test_a_debiased_value_below_0_is_not_clipped_and_keeps_its_gradient():
    for seed in range(20):
        x, y = features(WIDE, seed=seed, shared=0)
        if reference.cka(x, y) < -0.02:
            break
    measured = measure(*float32(x, y), ALL)
    assert float(measured['debiased']) == pytest.approx(reference.cka(x, y), abs=1e-4)
    assert np.abs(measured['gradients'][0]).max() > 1e-3


def test_a_student_that_is_detached_by_mistake_trains_nothing():
    # The trap that cka_loss itself cannot see; the gradient doctor does.
    x, y = float32(*features())
    loss = lambda x: losses.cka_loss(jax.lax.stop_gradient(x), y)
    assert not quick_jit(jax.grad(loss))(x).any()
    assert measure(x, y, ALL)['gradients'][0].any()


def test_constant_features_are_0_with_gradient_0_and_other_columns_do_not_hide_small_ones():
    x, y = float32(*features())
    # Many values: the mean of twelve equal numbers is that number only now and then.
    values = (
        np.random.default_rng(0).normal(size=(4, 1, 5))
        * 10.0 ** np.array([-6, 0, 3, 6])[:, None, None]
    )
    for constant in (0, *values):
        measured = measure(np.broadcast_to(np.float32(constant), x.shape), y, ALL)
        assert float(measured['debiased']) == float(measured['biased']) == 0
        assert not np.asarray(measured['gradients'][0]).any()
    # A column of 1e6 that does not vary, beside columns with a spread of 1e-3.
    beside = (1e-3 * x).copy()
    beside[:, 0] = 1e6
    expected = reference.cka(x[:, 1:].astype(np.float64), y.astype(np.float64))
    assert float(measure(beside, y, ALL)['debiased']) == pytest.approx(expected, abs=1e-4)


def test_minibatches_average_the_hsics_before_the_ratio():
    batches = [features(NARROW, seed=seed, mean=30) for seed in range(4)]
    x, y = (np.stack(side).astype(np.float32) for side in zip(*batches, strict=True))
    where = np.ones((4, N), bool)
    where[3, 7:] = False  # The last minibatch is short,
    where[2, 2:] = False  # and one is too short to say anything.
    parts = [(x[m, where[m]], y[m, where[m]]) for m in (0, 1, 3)]
    parts = [[f.astype(np.float64) - f.mean(axis=0) for f in part] for part in parts]
    xy, xx, yy = (
        np.mean([reference.hsic(part[i], part[j], True) for part in parts])
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    expected = xy / np.sqrt(xx * yy)
    minibatch_cka = quick_jit(losses.minibatch_cka)
    assert float(minibatch_cka(x, y, where=where)) == pytest.approx(expected, abs=1e-4)
    assert float(minibatch_cka(1e-12 * x, 1e12 * y, where=where)) == pytest.approx(
        expected, abs=1e-4
    )
    bfloat16 = (jnp.asarray(f, jnp.bfloat16) for f in (x, y))
    assert float(minibatch_cka(*bfloat16, where=where)) == pytest.approx(expected, abs=1e-2)
    assert abs(expected - np.mean([reference.cka(*part) for part in parts])) > 0.01

    @quick_jit
    def add(total, x, y, where):
        total += losses.hsic(x, y, where=where)
        return total, total.cka()

    total = losses.HSIC.zero()
    for batch in zip(x, y, where, strict=True):
        total, streamed = add(total, *batch)
    assert float(streamed) == pytest.approx(expected, abs=1e-4)
