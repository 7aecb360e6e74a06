"""Rows behind a prefix that all of them share, and rows that do not begin at the first column.

Letters: B rows, T columns of a row, P tokens of the prefix, S = P + T keys, L layers, J key and
value heads, h width of a head.
"""

import dataclasses

import jax
import jax.numpy as jnp

# The position of a column that is of no row.
NOWHERE = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """Keys and values of the tokens that stand in front of every row; P may be 0.

    Attributes:
        keys: `[L, 1, P, J, h]`, rotated; of one layer `[1, P, J, h]`.
        values: likewise.
    """

    keys: jax.Array
    values: jax.Array

    def in_front_of(
        self, keys: jax.Array, values: jax.Array, positions_BxT: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what the rows of one layer attend to.

        Args:
            keys: `[B, T, J, h]`, of the rows.
            values: likewise.
            positions_BxT: int32, NOWHERE for a column that is of no row.

        Returns:
            Keys and values `[B, S, J, h]`, and the position of each, int32 `[B, S]`: behind all
            others where the column is of no row, so that nothing sees it.
        """
        B, P = len(keys), self.keys.shape[1]
        alike = lambda x: jnp.broadcast_to(x, (B, *x.shape[1:]))
        join = lambda first, second: jnp.concatenate(
            [alike(first).astype(second.dtype), second], axis=1
        )
        unseen = jnp.iinfo(jnp.int32).max
        at_BxT = jnp.where(positions_BxT == NOWHERE, unseen, positions_BxT)
        at_BxS = join(jnp.arange(P, dtype=jnp.int32)[None], at_BxT.astype(jnp.int32))
        return join(self.keys, keys), join(self.values, values), at_BxS


def row_positions(starts_B: jax.Array, length: int, prefix: int) -> jax.Array:
    """Returns the position of each column, int32 `[B, T]`, NOWHERE in front of a row's first.

    Args:
        starts_B: int32, the first column of each row.
        length: columns (T).
        prefix: tokens in front of the first column of each row (P).
    """
    at_BxT = jnp.arange(length, dtype=jnp.int32)[None] - jnp.asarray(starts_B)[:, None]
    return jnp.where(at_BxT < 0, NOWHERE, at_BxT + prefix)
