"""The objective of masks of every size against loops in float64, and its traps."""

import jax
import loss_references as reference
import numpy as np
import pytest
from quick_jit import quick_jit

from cdjax import losses

N, G, K, V = 12, 4, 3, 5


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    draw = lambda: 3 * rng.normal(size=(N, V)).astype(np.float32)
    return {
        'full': draw(),
        'circuit': draw(),
        'own': draw(),
        'other': draw(),
        'sizes': np.eye(G, dtype=np.float32)[rng.permutation(np.arange(N) % G)],
        'p': rng.dirichlet(np.ones(K), N).astype(np.float32),
    }


@quick_jit
def all_terms(full, circuit, own, other, sizes, p, where=None):
    return losses.any_size_loss(
        full,
        circuit,
        sizes,
        probabilities=p,
        without_own_logits=own,
        without_other_logits=other,
        weights=losses.AnySizeWeights(1, 2, 3, 4),
        where=where,
    )


def kl_of(full, other):
    return np.array([reference.mean_kl(f[None], o[None]) for f, o in zip(full, other, strict=True)])


def test_terms_agree_with_loops(inputs):
    loss, terms = all_terms(**inputs)
    kl, of = kl_of(inputs['full'], inputs['circuit']), inputs['sizes'].argmax(1)
    expected = {
        'faithfulness': np.mean([np.log(kl[of == g].mean() + 0.02) for g in range(G)]),
        'usage': reference.negative_information(inputs['p']),
        'completeness': np.exp(-kl_of(inputs['full'], inputs['own']) / 2).mean(),
        'selectivity': np.log1p(kl_of(inputs['full'], inputs['other'])).mean(),
        'kl': kl.mean(),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    first = ('faithfulness', 'usage', 'completeness', 'selectivity')
    total = sum(w * expected[name] for w, name in enumerate(first, start=1))
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def test_padding_is_not_there(inputs):
    where = np.arange(N) % 4 > 0
    kept = {name: x[where] for name, x in inputs.items()}
    for name in ('circuit', 'own', 'other', 'sizes', 'p'):
        inputs[name] = np.where(where[:, None], inputs[name], np.nan)
    _, terms = all_terms(**inputs, where=where)
    _, expected = all_terms(**kept)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_a_size_that_no_problem_has_is_left_out(inputs):
    inputs['sizes'] = np.eye(G, dtype=np.float32)[np.arange(N) % 2]
    _, terms = all_terms(**inputs)
    kl = kl_of(inputs['full'], inputs['circuit'])
    expected = (np.log(kl[::2].mean() + 0.02) + np.log(kl[1::2].mean() + 0.02)) / 2
    np.testing.assert_allclose(terms['faithfulness'], expected, rtol=1e-5)


def test_sizes_with_a_large_and_a_small_divergence_pull_alike(inputs):
    # Of a plain mean the first size would have all of the gradient.
    scale = np.where(inputs['sizes'][:, :1] > 0, 1.0, 0.05)
    inputs['circuit'] = (inputs['full'] + scale * inputs['circuit']).astype(np.float32)

    @quick_jit
    def gradients(circuit):
        loss = lambda x, offset: losses.any_size_loss(
            inputs['full'], x, inputs['sizes'], offset=offset
        )[0]
        plain = lambda x: losses.faithfulness_kl(inputs['full'], x)
        return jax.grad(loss)(circuit, 1e-4), jax.grad(plain)(circuit)

    # The divergence falls by as much where each logit moves by the same part of its error.
    error = inputs['circuit'] - inputs['full']
    ours, plain = ((np.asarray(g) * error).sum(1) for g in gradients(inputs['circuit']))
    by_size = lambda pull: inputs['sizes'].T @ pull
    assert by_size(ours).min() > 0.3 * by_size(ours).max()
    assert np.sort(by_size(plain))[-2] < 0.05 * by_size(plain).max()


def test_the_whole_model_has_no_gradient(inputs):
    loss = lambda full: losses.any_size_loss(full, inputs['circuit'], inputs['sizes'])[0]
    assert not np.asarray(quick_jit(jax.grad(loss))(inputs['full'])).any()


def test_a_weight_without_its_logits_is_named(inputs):
    weights = losses.AnySizeWeights(selectivity=0.5)
    loss = lambda i: losses.any_size_loss(i['full'], i['circuit'], i['sizes'], weights=weights)
    with pytest.raises(ValueError, match=r'weights\.selectivity=0\.5 needs the logits'):
        jax.eval_shape(loss, inputs)


def test_an_answer_of_several_tokens_counts_with_the_sum_of_its_kls(inputs):
    """The KL of each token by itself; those that an answer lacks may hold anything."""
    rng = np.random.default_rng(1)
    full, circuit = 3 * rng.normal(size=(2, N, 3, V)).astype(np.float32)
    answered = np.arange(3)[None] < rng.integers(1, 4, N)[:, None]
    circuit[~answered] = 1e4 * rng.normal(size=V)

    def loss(circuit):
        return losses.any_size_loss(full, circuit, inputs['sizes'], answered=answered)[0]

    kl = np.zeros(N)
    for n, a in zip(*np.nonzero(answered), strict=True):
        kl[n] += reference.mean_kl(full[n, a][None], circuit[n, a][None])
    of = inputs['sizes'].argmax(1)
    expected = np.mean([np.log(kl[of == g].mean() + 0.02) for g in range(G)])
    np.testing.assert_allclose(quick_jit(loss)(circuit), expected, rtol=1e-5)
    slopes = np.asarray(quick_jit(jax.grad(loss))(circuit))
    assert not slopes[~answered].any()
    assert np.abs(slopes[answered]).sum(axis=1).min() > 0
