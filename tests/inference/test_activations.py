import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.inference.activations import answer_logits_and_activations

PASS = {'tokens_per_pass': 64 * toy.T}


@pytest.fixture(scope='module')
def everything():
    """Logits [N, T, V] and each site [L, N, T, ...]."""
    sites = ('neurons', 'head_out')
    return jax.jit(lambda m, tokens: m(tokens, capture=sites))(toy.model(), toy.dataset().tokens)


def collect(**options):
    return answer_logits_and_activations(toy.model(), toy.dataset(), **PASS, **options)


def test_the_answer_position_is_the_last_of_each_prompt(everything):
    logits, neurons = collect()
    np.testing.assert_allclose(logits, everything[0][:, -1], rtol=1e-4, atol=1e-5)
    expected = np.moveaxis(np.asarray(everything[1]['neurons'])[:, :, -1], 1, 0)
    np.testing.assert_allclose(neurons, expected, rtol=1e-4, atol=1e-5)


def test_other_sites_layers_and_positions(everything):
    _, heads = collect(site='head_out', layers=(1,), positions=(0, -2))
    expected = np.asarray(everything[1]['head_out'])[1:, :, [0, toy.T - 2]]
    np.testing.assert_allclose(heads, np.moveaxis(expected, 1, 0), rtol=1e-4, atol=1e-5)


def test_the_highest_logits_alone(everything):
    top, _ = collect(top_k=(3, 2.0))
    logits = np.asarray(everything[0][:, -1])
    np.testing.assert_array_equal(top.indices, np.argsort(-logits, axis=1)[:, :3])
