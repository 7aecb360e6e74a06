import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.classifier import (
    Classifier,
    Encoding,
    standardization,
    straight_through_gumbel_softmax,
)
from cdjax.errors import InputError

sampled = jax.jit(straight_through_gumbel_softmax)


def test_samples_are_one_hot_to_the_bit(key):
    logits = 3 * jax.random.normal(jax.random.key(1), (500, 4))
    noise = jax.random.gumbel(key, logits.shape)
    sample = np.asarray(sampled(noise, logits, 0.7))
    assert set(np.unique(sample)) == {0.0, 1.0}
    np.testing.assert_array_equal(sample.sum(axis=1), 1)


def test_samples_follow_the_softmax_at_any_temperature():
    logits = np.log([0.5, 0.3, 0.2]).astype(np.float32)
    rows = np.broadcast_to(logits, (4000, 3))
    noise = jax.random.gumbel(jax.random.key(2), rows.shape)
    for temperature in (0.1, 5.0):
        sample = np.asarray(sampled(noise, rows, temperature))
        np.testing.assert_allclose(sample.mean(axis=0), [0.5, 0.3, 0.2], atol=0.03)


def test_gradient_is_that_of_the_relaxed_sample(key):
    logits = jax.random.normal(jax.random.key(1), (6, 3))
    cotangent = np.random.default_rng(0).normal(size=(6, 3))
    noise, temperature = jax.random.gumbel(key, (6, 3)), 0.7

    gradient = jax.jit(jax.grad(lambda x: (sampled(noise, x, temperature) * cotangent).sum()))(
        logits
    )

    noisy = (np.asarray(logits) + np.asarray(noise)) / temperature
    y = np.exp(noisy) / np.exp(noisy).sum(axis=1, keepdims=True)
    expected = np.zeros((6, 3))
    for n in range(6):
        jacobian = (np.diag(y[n]) - np.outer(y[n], y[n])) / temperature
        expected[n] = jacobian @ cotangent[n]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ('encoding', 'message'),
    [
        (Encoding(layer=2), 'encode_layer=2: the model has layers 0 to 1'),
        (Encoding(layer=-1), 'encode_layer=-1'),
        (Encoding(positions=(1, 5)), r'encode_positions=\[1, 5\]: prompts have positions 0 to 4'),
        (Encoding(positions=(-6,)), r'encode_positions=\[-6\]'),
        (Encoding(positions=()), r'encode_positions=\[\]'),
    ],
)
def test_layers_and_positions_that_are_not_there(encoding, message):
    with pytest.raises(InputError, match=message):
        encoding.check(toy.teacher_config(), toy.T)
    Encoding(1, (0, 4, -5)).check(toy.teacher_config(), toy.T)


def test_standardization_leaves_out_what_does_not_vary():
    rng = np.random.default_rng(0)
    x = rng.normal(5, [2, 0.1, 0], size=(200, 3)).astype(np.float32)
    mean, inverse = standardization(x)
    z = (x - mean) * inverse
    np.testing.assert_allclose(z[:, :2].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z[:, :2].std(0), 1, rtol=1e-4)
    assert inverse[2] == 0
    assert (z[:, 2] == 0).all()


def test_classifier_is_linear(key):
    classifier = Classifier(5, 3, key)
    bias = np.array([1.0, -2.0, 0.5], np.float32)
    classifier.bias[...] = bias
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    expected = np.asarray(x, np.float64) @ np.asarray(classifier.weight[...]) + bias
    np.testing.assert_allclose(classifier(x), expected, rtol=1e-4, atol=1e-5)
