"""Rates of their own, and the epsilon that keeps small gradients small."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdjax.errors import InputError
from cdjax.training.optimizer import OptimizerConfig, make_optimizer

CONFIG = OptimizerConfig(100, 0.1, warmup_steps=0, weight_decay=0.0)


def moves(tx, gradients, steps=5):
    """How far parameters of zeros move under constant gradients."""
    params = jax.tree.map(jnp.zeros_like, gradients)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


GRADIENTS = {
    'classifier': {'weight': jnp.full((2, 3), 0.1)},
    'masks': {'teacher': {'scores': jnp.array([0.1, 1e-6])}},
}


def test_parameters_below_a_name_have_a_learning_rate_of_their_own():
    together = moves(make_optimizer(CONFIG), GRADIENTS)
    apart = moves(make_optimizer(CONFIG, learning_rates={'classifier': 0.02}), GRADIENTS)
    alone = moves(
        make_optimizer(OptimizerConfig(100, 0.02, warmup_steps=0, weight_decay=0.0)), GRADIENTS
    )
    of_classifier = lambda params: params['classifier']['weight']
    np.testing.assert_allclose(of_classifier(apart), of_classifier(alone), rtol=1e-5)
    assert np.abs(of_classifier(together)).min() > 4 * np.abs(of_classifier(apart)).max()
    np.testing.assert_array_equal(
        apart['masks']['teacher']['scores'], together['masks']['teacher']['scores']
    )


def test_a_name_is_no_prefix_of_a_word():
    rates = {'mask': 1e-3}
    one, other = (moves(make_optimizer(CONFIG, learning_rates=r), GRADIENTS) for r in (rates, None))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_epsilon_decides_whether_a_small_gradient_becomes_a_full_step():
    def scores(epsilon):
        optimizer = make_optimizer(dataclasses.replace(CONFIG, epsilon=epsilon))
        return -moves(optimizer, GRADIENTS)['masks']['teacher']['scores']

    usual, large = scores(1e-8), scores(1e-2)
    assert usual[1] > 0.9 * usual[0], 'a gradient of 1e-6 moves as far as one of 0.1'
    assert large[1] < 1e-3 * large[0]


def test_an_epsilon_of_zero_is_refused():
    with pytest.raises(InputError, match=r'epsilon=0\.0 must be above 0'):
        OptimizerConfig(100, 0.1, epsilon=0.0)
