"""Gram matrices: what JAX makes of a product of a matrix with itself, at one product less."""

import hlo
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax.losses import linear_cka
from cdjax.losses.numerics import gram_matrix

x, weights = (
    np.random.default_rng(n).normal(size=(5, m)).astype('f') for n, m in enumerate((3, 5))
)


def einsum(x):
    return jnp.einsum('np,mp->nm', x, x, precision='highest')


@pytest.mark.parametrize('derivative', [jax.grad, jax.jacfwd, jax.hessian])
def test_its_derivatives_are_those_of_the_product(derivative):
    """Of a function that is not symmetric in the matrix, too."""
    total = lambda gram: lambda x: jnp.sum(jnp.tanh(gram(x)) * weights)
    ours, theirs = (jax.jit(derivative(total(gram)))(x) for gram in (gram_matrix, einsum))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(gram_matrix)(x), x.astype(float) @ x.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(('rows', 'width'), [(16, 96), (96, 16)])
def test_a_gradient_of_cka_takes_one_product_beside_those_of_the_value(rows, width):
    a, b = (jax.ShapeDtypeStruct((rows, width), jnp.float32) for _ in range(2))
    count = lambda f: len(
        hlo.results(jax.jit(f).lower(a, b).compile().as_text().splitlines(), 'dot')
    )
    more = count(jax.value_and_grad(linear_cka)) - count(linear_cka)
    # Of features XᵀX and XᵀY both have one.
    assert more == (1 if rows < width else 2)
