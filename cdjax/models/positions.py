"""Positions of a row that an edit acts at or a capture takes: for all rows, or for each its own."""

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.errors import InputError

# A tuple or range is static and holds for all rows; an array is traced. Negative ones count from
# the end of the padded row.
Positions = tuple[int, ...] | range | jax.Array | np.ndarray


def check_positions(
    positions: Positions, batch: int, length: int, what: str, *, masks: bool
) -> None:
    """Raises InputError for positions that the rows of a call cannot have.

    Args:
        positions: a tuple or range, or int `[B]` or `[B, P]`.
        batch: rows of the call (B).
        length: positions of each (T).
        what: whose positions they are, for the message.
        masks: whether bool `[T]` or `[B, T]` will do too.
    """
    if isinstance(positions, tuple | range):
        outside = [p for p in positions if not -length <= p < length]
        if outside:
            raise InputError(
                f'positions of {what}: {outside[0]} is outside rows of {length} positions'
            )
        return
    shape = getattr(positions, 'shape', None)
    if shape is not None and positions.dtype == bool:
        fits = masks and shape in ((length,), (1, length), (batch, length))
    else:
        fits = shape is not None and len(shape) in (1, 2) and shape[0] == batch
    if not fits:
        found = type(positions).__name__ if shape is None else f'{positions.dtype} {shape}'
        or_mask = f', or a bool array [{length}] or [{batch}, {length}]' if masks else ''
        raise InputError(
            f'positions of {what} are {found}: give a tuple for all rows, or an int array '
            f'[{batch}] or [{batch}, P] with those of each row{or_mask}'
        )


def positions_mask(positions: Positions, length: int) -> jax.Array:
    """Returns bool `[B, T]`, or `[1, T]` where it is the same for all rows."""
    if isinstance(positions, tuple | range):
        mask_T = np.zeros(length, bool)
        mask_T[list(positions)] = True
        return jnp.asarray(mask_T)[None]
    positions = jnp.asarray(positions)
    if positions.dtype == bool:
        return jnp.atleast_2d(positions)
    at_BxP = from_start(positions, length)
    return (at_BxP[:, :, None] == jnp.arange(length)[None, None]).any(axis=1)


def take_positions(x: jax.Array, positions: Positions | None) -> jax.Array:
    """Returns `[B, P, ...]` of `[B, T, ...]`; P is 1 for positions `[B]`.

    An x of one row is the same for all rows.
    """
    if positions is None:
        return x
    if isinstance(positions, tuple | range):
        return x[:, np.asarray(positions, int)]
    at_BxP = from_start(jnp.asarray(positions), x.shape[1])
    if x.shape[0] == 1:
        return jnp.asarray(x)[0, at_BxP]
    return jnp.take_along_axis(x, jnp.expand_dims(at_BxP, range(2, x.ndim)), axis=1)


def count_positions(positions: Positions | None, length: int) -> int:
    """Returns P, how many positions of each row `take_positions` takes."""
    if positions is None:
        return length
    if isinstance(positions, tuple | range):
        return len(positions)
    return 1 if positions.ndim == 1 else positions.shape[1]


def same_positions(one: Positions | None, other: Positions | None, length: int) -> bool:
    """Says whether two positions are known to be the same: equal where static, else one array."""
    if one is other:
        return True
    static = isinstance(one, tuple | range) and isinstance(other, tuple | range)
    return static and [p % length for p in one] == [p % length for p in other]


def from_start(positions: jax.Array, length: int) -> jax.Array:
    """Returns int `[B, P]` of int `[B]` or `[B, P]`, negative ones counted from the end."""
    at_BxP = positions.reshape(len(positions), -1)
    return jnp.where(at_BxP < 0, at_BxP + length, at_BxP)
