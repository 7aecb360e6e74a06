"""Numbers that JAX would take for others."""

import jax
import numpy as np
import pytest

from cdjax.errors import InputError, check_finite, check_seed, renamed


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


def test_values_are_named_as_the_user_knows_them():
    with pytest.raises(InputError, match=r'^her_a=3 is above a, b=2 and bad_a=1$'):
        with renamed({'a': 'her_a', 'above': 'below'}):
            raise InputError('a=3 is above a, b=2 and bad_a=1')
    with pytest.raises(ValueError, match=r'^a=3$'), renamed({'a': 'her_a'}):
        raise ValueError('a=3')  # not a user's mistake
