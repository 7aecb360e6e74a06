"""How alike two sets of activations are, as a figure and not as a loss."""

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.losses import linear_cka

# One program a shape; outside of a program each operation of the CKA would be compiled by itself.
_linear_cka = jax.jit(linear_cka)


def debiased_cka(one: np.ndarray | jax.Array, other: np.ndarray | jax.Array) -> float:
    """Returns the debiased linear CKA of activations of the same problems.

    Args:
        one: `[N, ...]`, N ≥ 4, any float dtype.
        other: `[N, ...]`; its other axes may differ.

    Raises:
        ValueError: if N < 4.
    """
    columns = [jnp.asarray(side).reshape(len(side), -1) for side in (one, other)]
    return float(_linear_cka(*columns))
