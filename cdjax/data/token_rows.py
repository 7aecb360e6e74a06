"""Rows of tokens of several lengths, and rows behind a text that all of them share.

A plain array `[B, T]` says all there is to say of rows of one length. Others are aligned at a
column in common, that behind which their answers begin: a position counted from there is one and
the same for all rows, and so is a mean over rows.
"""

import dataclasses
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TokenRows:
    """B rows, padded on both sides, behind a prefix; taken wherever a model takes tokens.

    `rows[index]` are the chosen ones, as of an array.

    Attributes:
      tokens: int32 [B, T]. What stands outside a row is any token; it is never seen.
      starts: int32 [B], the first column of each row.
      stops: int32 [B], the column behind its last.
      prefix: P tokens in front of every row, such as BOS and solved examples. A model reads them
        once for all rows of a call; its edits and captures are of the rows alone.
      read: what a model has made of the prefix, see `read_by`.
    """

    tokens: np.ndarray | jax.Array
    starts: np.ndarray | jax.Array
    stops: np.ndarray | jax.Array
    prefix: tuple[int, ...] = dataclasses.field(default=(), metadata={'static': True})
    read: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T), without the prefix."""
        return self.tokens.shape

    def read_by(self, model: Any) -> 'TokenRows':
        """Returns the rows with the prefix read by a model, for several calls or for other models.

        Args:
          model: has `read_prefix`; see `cdjax.models.Llama`.
        """
        return dataclasses.replace(self, read=model.read_prefix(self.prefix))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows) -> 'TokenRows':
        return jax.tree.map(lambda column: column[rows], self)

    @property
    def counted(self) -> np.ndarray | jax.Array:
        """Bool [B, T], the columns that are of a row."""
        at_T = np.arange(self.shape[1])[None]
        return (at_T >= self.starts[:, None]) & (at_T < self.stops[:, None])


def read_once(
    tokens: np.ndarray | jax.Array | TokenRows, model: Any
) -> np.ndarray | jax.Array | TokenRows:
    """Returns tokens whose prefix, if they have one, has been read by a model."""
    if isinstance(tokens, TokenRows) and tokens.prefix and tokens.read is None:
        return tokens.read_by(model)
    return tokens


def counted_columns(tokens: np.ndarray | jax.Array | TokenRows) -> np.ndarray | jax.Array | None:
    """Returns which columns are of a row, bool [B, T]; None where all are."""
    return tokens.counted if isinstance(tokens, TokenRows) else None


def align(
    tokens: np.ndarray,
    lengths: np.ndarray,
    answers: np.ndarray,
    answer_lengths: np.ndarray,
    *,
    prefix: tuple[int, ...] = (),
) -> np.ndarray | TokenRows:
    """Aligns rows at the column where their prompts end, their answers behind them.

    Args:
      tokens: int32 [N, W], prompts from the first column on, each with the prefix in front.
      lengths: int [N], tokens of each prompt.
      answers: int32 [N, A]; all but the last token of each is something to go on from.
      answer_lengths: int [N], tokens of each answer.
      prefix: tokens that all rows begin with, and that are taken off.

    Returns:
      Rows whose prompts end at one column; a plain array where they have one length, answers of
      one token and no prefix.
    """
    P = len(prefix)
    tokens, lengths = tokens[:, P:], np.asarray(lengths) - P
    end = int(lengths.max(initial=0))
    starts = (end - lengths).astype(np.int32)
    at = np.arange(end)[None] - starts[:, None]
    # What stands behind a short prompt comes to stand in front of it.
    prompts = np.take_along_axis(tokens[:, :end], at % max(end, 1), axis=1)
    if not P and not starts.any() and answers.shape[1] == 1:
        return prompts
    given = np.maximum(answers[:, :-1], 0)
    stops = (end + np.asarray(answer_lengths) - 1).astype(np.int32)
    return TokenRows(np.concatenate([prompts, given], axis=1), starts, stops, prefix)
