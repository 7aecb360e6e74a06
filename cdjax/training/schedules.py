"""How the weight of an alignment changes over a training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# The part of the weight that is in force, by the part of the steps that are done, from 0 to 1.
WEIGHT_SCHEDULES: dict[str, Callable[[jax.Array], jax.Array] | None] = {
    'constant': None,
    'rise': lambda done: done,
    'fall': lambda done: 1 - done,
    'cosine': lambda done: 0.5 * (1 + jnp.cos(jnp.pi * done)),
}


def weight_at(
    schedule: str, weight: float | jax.Array, step: jax.Array, steps: int
) -> float | jax.Array:
    """Returns the weight of a step: as it is given where it never changes, else a float32 scalar.

    Args:
        schedule: a key of `WEIGHT_SCHEDULES`: 'constant'; 'rise' and 'fall', straight from 0 to the
            weight and back; 'cosine', from the weight to 0.
        weight: the whole of it.
        step: int32 scalar, the steps done.
        steps: those of the training.
    """
    part = WEIGHT_SCHEDULES[schedule]
    return weight if part is None else weight * part(step.astype(jnp.float32) / steps)
