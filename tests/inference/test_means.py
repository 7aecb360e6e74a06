import dataclasses

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.inference.means import neuron_deviations, neuron_means


@pytest.mark.parametrize('site', ['neurons', 'head_out', 'residual'])
def test_means_equal_a_loop_over_problems(site):
    data = toy.dataset()
    run = jax.jit(lambda m, tokens: m(tokens, capture=(site,), logits_at=-1)[1][site])
    clean = np.asarray(run(toy.model(), data.tokens), np.float64)
    total = np.zeros((toy.L, toy.T, *clean.shape[3:]))
    for n in range(len(data)):
        total += clean[:, n]
    # 155 problems, 64 a pass: the rows that fill up the last pass must not count.
    means = neuron_means(toy.model(), data, site=site, tokens_per_pass=64 * toy.T)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, total / len(data), rtol=1e-4, atol=1e-6)


def test_deviations_are_those_of_numpy():
    data = toy.dataset()
    means = neuron_means(toy.model(), data)
    run = jax.jit(lambda m, tokens: m(tokens, capture=('neurons',), logits_at=-1)[1]['neurons'])
    clean = np.asarray(run(toy.model(), data.tokens), np.float64)
    found = neuron_deviations(toy.model(), data, means, tokens_per_pass=64 * toy.T)
    assert found.shape == (toy.L, toy.T, toy.F)
    np.testing.assert_allclose(found, clean.std(axis=1), rtol=1e-3, atol=1e-5)
    # About other values than the means, it is the deviation from these.
    further = neuron_deviations(toy.model(), data, means + 1)
    np.testing.assert_allclose(further, np.sqrt(clean.var(axis=1) + 1), rtol=1e-3)


def test_prompts_of_several_lengths_have_no_mean_at_a_position():
    data = toy.dataset()
    mixed = dataclasses.replace(data, lengths=np.where(np.arange(len(data)) == 3, 4, data.lengths))
    with pytest.raises(InputError, match='prompts of 4 to 5 tokens have no mean activation'):
        neuron_means(toy.model(), mixed)
