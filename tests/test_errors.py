"""Numbers that JAX would take for others."""

import jax
import numpy as np
import pytest

from cdjax.errors import InputError, check_finite, check_seed


def test_seeds_are_as_many_as_they_look():
    data = lambda seed: np.asarray(jax.random.key_data(jax.random.key(seed)))
    np.testing.assert_array_equal(data(2**32), data(0), 'why larger ones are refused')
    check_seed(seed=0, other=2**32 - 1)
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match=f'other={seed} must not be negative, and below'):
            check_seed(seed=0, other=seed)


def test_finite_numbers():
    check_finite(a=0.0, b=-1e308, c=3)
    for value in (float('nan'), float('inf'), -float('inf')):
        with pytest.raises(InputError, match=f'b={value} must be a finite number'):
            check_finite(a=0.0, b=value)
