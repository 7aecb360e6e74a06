"""Side by side with pytorch-cka 1.1.3: equal where it is right, and here is where it is not."""

import jax
import numpy as np
import pytest
import torch
from cka import cka_from_features, compute_cka
from quick_jit import quick_jit

from cdjax import losses

SHAPES = {'wide': (16, 40, 70), 'narrow': (40, 6, 9)}


@quick_jit
def ours(x, y):
    return jax.value_and_grad(losses.linear_cka)(x, y)


def theirs(x, y):
    """Their value and their gradient to x, in float32."""
    x = torch.tensor(x, requires_grad=True)
    value = cka_from_features(x, torch.tensor(y))[0, 0]
    value.backward()
    return value.item(), x.grad.numpy()


def features(shape, seed=0, shared=1.0):
    n, p, q = SHAPES[shape]
    rng = np.random.default_rng(seed)
    common = shared * rng.normal(size=(n, 4))
    x = rng.normal(size=(n, p)) + common @ rng.normal(size=(4, p))
    y = rng.normal(size=(n, q)) + common @ rng.normal(size=(4, q))
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize('shape', SHAPES)
def test_equal_values_and_gradients_on_centred_features(shape):
    x, y = features(shape)
    value, gradient = ours(x, y)
    their_value, their_gradient = theirs(x, y)
    assert 0.1 < their_value < 0.9
    assert float(value) == pytest.approx(their_value, abs=1e-5)
    np.testing.assert_allclose(gradient, their_gradient, atol=1e-5)


def test_equal_over_minibatches():
    batches = [features('wide', seed) for seed in range(3)]
    x, y = (torch.tensor(np.stack(side)) for side in zip(*batches, strict=True))

    class Given(torch.nn.Module):
        """A model whose only layer has these features, one minibatch after the other."""

        def __init__(self, features):
            super().__init__()
            self.layer, self.features = torch.nn.Identity(), features

        def forward(self, number):
            return self.layer(self.features[int(number[0])])

    numbers = torch.utils.data.DataLoader(torch.arange(3).repeat_interleave(16), batch_size=16)
    (theirs,) = compute_cka(
        Given(x), Given(y), numbers, layers=['layer'], device='cpu', progress=False
    )
    value = quick_jit(losses.minibatch_cka)(x.numpy(), y.numpy())
    assert float(value) == pytest.approx(theirs.item(), abs=1e-5)


def test_theirs_loses_its_digits_far_from_0_and_ours_does_not():
    x, y = features('wide')
    value, _ = ours(x, y)
    far_x, far_y = x + 300, y - 300
    assert float(ours(far_x, far_y)[0]) == pytest.approx(float(value), abs=1e-4)
    assert abs(theirs(far_x, far_y)[0] - float(value)) > 1e-2


def test_theirs_is_0_for_small_features_and_nan_in_the_gradient():
    x, y = features('wide')
    value, gradient = ours(1e-7 * x, 1e-7 * y)
    their_value, their_gradient = theirs(1e-7 * x, 1e-7 * y)
    assert float(value) == pytest.approx(float(ours(x, y)[0]), abs=1e-5)
    assert np.abs(gradient).max() > 1
    # The product of the two self-HSICs is below the least float32.
    assert abs(their_value) < 1e-6
    assert np.isnan(their_gradient).all()


def test_theirs_clips_a_value_below_0_and_with_it_the_gradient():
    for seed in range(20):
        x, y = features('wide', seed, shared=0)
        value, gradient = ours(x, y)
        if value < -0.02:
            break
    their_value, their_gradient = theirs(x, y)
    assert their_value == 0
    assert not their_gradient.any()
    assert np.abs(gradient).max() > 1e-3


def test_theirs_is_nan_in_the_gradient_of_zero_features():
    x, y = features('wide')
    value, gradient = ours(0 * x, y)
    their_value, their_gradient = theirs(0 * x, y)
    assert float(value) == their_value == 0
    assert np.isnan(their_gradient).all()
    assert not np.asarray(gradient).any()


def test_both_refuse_fewer_than_four_rows():
    x, y = features('wide')
    with pytest.raises(ValueError, match='n > 3'):
        theirs(x[:3], y[:3])
    with pytest.raises(ValueError, match='give at least 4'):
        losses.linear_cka(x[:3], y[:3])
