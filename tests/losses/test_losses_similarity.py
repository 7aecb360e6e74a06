"""RSA against loops and scipy, its two identities with CKA, and orthogonal Procrustes."""

import functools

import jax
import jax.numpy as jnp
import loss_references as reference
import numpy as np
import pytest
from quick_jit import quick_jit
from scipy import stats

from cdjax import losses

N, P, Q = 40, 5, 20
OPTIONS = [
    ('sqeuclidean', None, 'pearson'),
    ('euclidean', None, 'pearson'),
    ('cosine', None, 'cosine'),
    ('correlation', None, 'spearman'),
    ('sqeuclidean', 'double', 'cosine'),
    ('sqeuclidean', 'u', 'cosine'),
    ('euclidean', 'u', 'pearson'),
    ('correlation', 'double', 'pearson'),
]
# Each distance, centring and comparison once: dtypes differ in what the distances make of features.
OF_EACH = [OPTIONS[n] for n in (2, 3, 4, 6)]


def options_of(dtype):
    return OPTIONS if dtype == 'float32' else OF_EACH


@quick_jit
def measure(x, y, where):
    """All those RSAs, the CKAs they are to equal, Procrustes, and its gradients."""
    of_procrustes = functools.partial(losses.procrustes_distance, where=where)
    if x.dtype == jnp.float32:
        procrustes, gradients = jax.value_and_grad(of_procrustes, (0, 1))(x, y)
        cka = [losses.linear_cka(x, y, debiased=b, where=where) for b in (False, True)]
    else:
        procrustes, gradients, cka = of_procrustes(x, y), None, None
    return {
        'rsa': [
            losses.rsa(x, y, distance=d, centering=c, comparison=m, where=where)
            for d, c, m in options_of(x.dtype)
        ],
        'cka': cka,
        'procrustes': procrustes,
        'gradients': gradients,
    }  # fmt: skip


def features(mean=0.0, seed=0):
    """Two sets of features that share a part; each column's mean is so many spreads, or minus."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, P))
    y = x @ rng.normal(size=(P, Q)) + rng.normal(size=(N, Q))
    signs = (rng.choice([-1, 1], width) for width in (P, Q))
    return [f + mean * f.std() * sign for f, sign in zip((x, y), signs, strict=True)]


def float32(*arrays):
    return [np.asarray(array, np.float32) for array in arrays]


ALL = np.ones(N, bool)


def expected_rsa(x, y, distance, centering, comparison):
    n = len(x)
    a, b = (reference.dissimilarities(f, distance) for f in (x, y))
    upper = np.triu_indices(n, 1)
    if centering is None:
        u, v = a[upper], b[upper]
    elif centering == 'double':
        center = np.eye(n) - 1 / n
        u, v = ((center @ d @ center).ravel() for d in (a, b))
    else:
        # U-centring by least squares: the off-diagonal entries without their best r_i + r_j.
        design = np.zeros((len(upper[0]), n))
        design[np.arange(len(design)), upper[0]] = design[np.arange(len(design)), upper[1]] = 1
        u, v = (
            d[upper] - design @ np.linalg.lstsq(design, d[upper], rcond=None)[0] for d in (a, b)
        )
    if comparison == 'cosine':
        return reference.cosine(u, v)
    return (stats.pearsonr if comparison == 'pearson' else stats.spearmanr)(u, v).statistic


@pytest.mark.parametrize('mean', [0, 30])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_rsa_and_procrustes_agree_with_float64_loops(mean, dtype):
    exact = features(mean)
    arrays = [jnp.asarray(f, dtype) for f in exact]
    same_bits = [np.asarray(f, np.float64) for f in arrays]
    measured = measure(*arrays, ALL)
    for value, options in zip(measured['rsa'], options_of(dtype), strict=True):
        assert value.dtype == jnp.float32
        assert float(value) == pytest.approx(expected_rsa(*same_bits, *options), abs=1e-4), options
        # Ranks turn the rounding of what is nearly tied into whole steps.
        tolerance = 2e-2 if options[2] == 'spearman' else 1e-2
        expected = expected_rsa(*exact, *options)
        assert float(value) == pytest.approx(expected, abs=tolerance), options
    for arguments, tolerance in ((same_bits, 1e-4), (exact, 1e-2)):
        expected = reference.procrustes(*arguments)
        assert float(measured['procrustes']) == pytest.approx(expected, abs=tolerance)


def test_a_zero_row_has_cosine_0_with_every_row():
    x, y = float32(*features(30))
    x[3] = x[7] = 0
    y[2] = 5  # Constant over the features: no correlation either.
    arguments = [f.astype(np.float64) for f in (x, y)]
    measured = measure(x, y, ALL)
    for value, options in zip(measured['rsa'], OPTIONS, strict=True):
        assert float(value) == pytest.approx(expected_rsa(*arguments, *options), abs=1e-4), options


def test_rsa_with_centring_is_cka():
    measured = measure(*float32(*features()), ALL)
    assert float(measured['rsa'][4]) == pytest.approx(float(measured['cka'][0]), abs=1e-5)
    assert float(measured['rsa'][5]) == pytest.approx(float(measured['cka'][1]), abs=1e-5)


def test_padding_rows_change_no_rsa_and_no_procrustes():
    x, y = float32(*features())
    where = np.arange(N) != 4
    x[4], y[4] = np.nan, np.inf
    measured = measure(x, y, where)
    subset = [f[where].astype(np.float64) for f in (x, y)]
    for value, options in zip(measured['rsa'], OPTIONS, strict=True):
        assert float(value) == pytest.approx(expected_rsa(*subset, *options), abs=1e-4), options
    assert float(measured['procrustes']) == pytest.approx(reference.procrustes(*subset), abs=1e-4)
    assert np.isfinite(measured['gradients'][0]).all()


def test_tied_distances_share_their_rank():
    # Corners of a cube have few distances. As many on each side: the mean, 0, rounds nothing.
    rng = np.random.default_rng(0)
    x = np.stack([rng.permutation(np.repeat([-1, 1], N // 2)) for _ in range(P)], axis=1)
    y = features()[1]
    value = quick_jit(lambda x, y: losses.rsa(x, y, comparison='spearman'))(*float32(x, y))
    assert float(value) == pytest.approx(
        expected_rsa(x, y, 'sqeuclidean', None, 'spearman'), abs=1e-4
    )


@pytest.mark.parametrize('option', ['distance', 'centering', 'comparison'])
def test_an_unknown_option_is_named(option):
    with pytest.raises(ValueError, match=f"{option}='kendall' is not known; choose one of"):
        losses.rsa(*features(), **{option: 'kendall'})


def test_procrustes_of_more_features_than_rows():
    rng = np.random.default_rng(0)
    x, y = 5 + rng.normal(size=(2, 12, 20))
    y[:, :9] += x[:, :9]
    value = quick_jit(losses.procrustes_distance)(*float32(x, y))
    assert float(value) == pytest.approx(reference.procrustes(x, y), abs=1e-4)


def test_procrustes_is_the_residual_of_the_best_rotation():
    x, y = (f - f.mean(axis=0) for f in features())
    x, y = np.pad(x, ((0, 0), (0, Q - P))) / np.linalg.norm(x), y / np.linalg.norm(y)
    u, _, vt = np.linalg.svd(x.T @ y)
    residual = np.sum((x @ u @ vt - y) ** 2)
    value = float(measure(*float32(*features()), ALL)['procrustes'])
    assert value == pytest.approx(residual, abs=1e-4)
    rotated = features()[0] @ np.linalg.qr(np.random.default_rng(2).normal(size=(P, P)))[0]
    same = quick_jit(losses.procrustes_distance)(*float32(3 * features()[0] + 1, rotated))
    assert float(same) == pytest.approx(0, abs=1e-5)


def test_gradient_of_procrustes_is_that_of_finite_differences():
    arrays = features()
    gradients = measure(*float32(*arrays), ALL)['gradients']
    rng = np.random.default_rng(1)
    for side, gradient in enumerate(gradients):
        direction = rng.normal(size=gradient.shape)
        moved = [
            reference.procrustes(
                *(f + step * direction if i == side else f for i, f in enumerate(arrays))
            )
            for step in (1e-5, -1e-5)
        ]
        slope = (moved[0] - moved[1]) / 2e-5
        assert float(np.sum(gradient * direction)) == pytest.approx(slope, abs=1e-4)
