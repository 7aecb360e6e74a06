"""A user's own text as rows of tokens, to tell whether a model still knows how to go on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cdjax.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TOKENS = 100_000  # of a text that are read


@dataclass(frozen=True, eq=False)
class TextRows:
    """A text cut into rows.

    Attributes:
      tokens: int32 [N, T], BOS and the next T - 1 tokens of the text, the last row right-padded.
      lengths: int32 [N], tokens of each row with its BOS.
      hash: SHA-256 of both, as hexadecimal digits.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    hash: str


def read_text(path: str | Path, tokenizer: 'PreTrainedTokenizerBase', length: int) -> TextRows:
    """Reads a text file and cuts its first 100,000 tokens into rows.

    Args:
      path: a local file in UTF-8.
      tokenizer: of the models in use, with a BOS token.
      length: T, tokens of a row.

    Raises:
      InputError: no such file, no text, or one that the tokenizer has no tokens for.
    """
    try:
        text = Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f'text={path} cannot be read ({error}): name a text file in UTF-8'
        ) from error
    ids = np.asarray(tokenizer(text, add_special_tokens=False)['input_ids'][:MAX_TOKENS], np.int32)
    if not len(ids):
        raise InputError(f'text={path} holds no text')
    unknown = (ids == tokenizer.unk_token_id).mean() if tokenizer.unk_token_id is not None else 0
    if unknown > 0.5:
        raise InputError(
            f'text={path}: for {unknown:.0%} of it the tokenizer in use has no tokens; name a text '
            'that the models can read'
        )
    rows = -(-len(ids) // (length - 1))
    lengths = np.full(rows, length, np.int32)
    lengths[-1] = 1 + len(ids) - (rows - 1) * (length - 1)
    tokens = np.zeros((rows, length), np.int32)
    tokens[:, 0] = tokenizer.bos_token_id
    padded = np.zeros(rows * (length - 1), np.int32)
    padded[: len(ids)] = ids
    tokens[:, 1:] = padded.reshape(rows, length - 1)
    digest = hashlib.sha256(tokens.tobytes() + lengths.tobytes()).hexdigest()
    return TextRows(tokens, lengths, digest)
