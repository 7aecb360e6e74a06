"""From prompts and answers to tokens, with every example checked against the tokenizer in use."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from cdjax.errors import InputError

if TYPE_CHECKING:  # importing it takes as long as importing JAX
    from transformers import PreTrainedTokenizerFast


# Behind the last token of an answer that is shorter than others.
NO_TOKEN = -1


@dataclass(frozen=True)
class Encoding:
    """N prompts and answers as tokens, and for each the reason why it does not fit, if any.

    Attributes:
      tokens: int32 [N, T], BOS and the prompt, padded on the right.
      lengths: int32 [N], tokens of each row with its BOS.
      answers: int32 [N, A], the answer's tokens, NO_TOKEN behind a shorter one; 0 where the example
        does not fit.
      faults: object [N], the reason as text why an example does not fit, '' where it does.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    answers: np.ndarray
    faults: np.ndarray

    @property
    def answer_lengths(self) -> np.ndarray:
        """Tokens of each answer, int64 [N]."""
        return (self.answers != NO_TOKEN).sum(axis=1)


def encode_examples(
    tokenizer: 'PreTrainedTokenizerFast',
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    answer_tokens: int = 1,
) -> Encoding:
    """Tokenizes prompts and answers, and checks each pair.

    A pair fits if the tokenizer can write the prompt back from its tokens, the prompt brings no
    BOS of its own (one is put in front), the answer has few tokens that are written back as the
    answer, and the prompt with its answer is the prompt's tokens and then the answer's: no
    merge across the boundary, so that predicting the answer is predicting those tokens.

    Args:
      tokenizer: a fast tokenizer with a BOS token.
      prompts: N texts without BOS.
      answers: N texts.
      answer_tokens: tokens of an answer at most.

    Raises:
      InputError: the tokenizer has no BOS token, or is not a fast one.
    """
    bos, unknown = tokenizer.bos_token_id, tokenizer.unk_token_id
    if bos is None:
        raise InputError(
            'the tokenizer has no BOS token, and each prompt needs exactly one: set bos_token in '
            'its tokenizer_config.json'
        )
    rows = token_ids(tokenizer, prompts)
    joined = token_ids(
        tokenizer, [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    )
    written = tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=False)
    fitting = few_tokens(tokenizer, dict.fromkeys(answers), answer_tokens)
    most = 'one token' if answer_tokens == 1 else f'at most {answer_tokens} tokens'
    faults = np.full(len(rows), '', object)
    for i, (row, whole) in enumerate(zip(rows, joined, strict=True)):
        if bos in row:
            faults[i] = 'the prompt has a BOS of its own'
        elif unknown in row or written[i] != prompts[i]:
            faults[i] = 'the prompt has characters that the tokenizer cannot write'
        elif answers[i] not in fitting:
            faults[i] = f'the answer is not {most}'
        elif whole != [*row, *fitting[answers[i]]]:
            faults[i] = 'the answer is another token after this prompt'
    tokens, lengths = _pad([[bos, *row] for row in rows], padding_id(tokenizer))
    found, _ = _pad([fitting.get(text, [0]) for text in answers], NO_TOKEN)
    return Encoding(tokens, lengths, found, faults)


def token_ids(tokenizer: 'PreTrainedTokenizerFast', texts: Sequence[str]) -> list[list[int]]:
    """Tokenizes texts without special tokens, several times faster than calling the tokenizer."""
    if not getattr(tokenizer, 'is_fast', False):
        raise InputError(
            f'{type(tokenizer).__name__} is not a fast tokenizer: load one with a tokenizer.json'
        )
    backend = tokenizer.backend_tokenizer
    # A call of the tokenizer resets both in the same way; a tokenizer.json may have them set.
    backend.no_truncation()
    backend.no_padding()
    return [
        encoding.ids
        for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def single_tokens(tokenizer: 'PreTrainedTokenizerFast', texts: Sequence[str]) -> dict[str, int]:
    """Returns the token of each text that is one token, and is written back from it."""
    return {text: row[0] for text, row in few_tokens(tokenizer, texts, 1).items()}


def few_tokens(
    tokenizer: 'PreTrainedTokenizerFast', texts: Sequence[str], most: int
) -> dict[str, list[int]]:
    """Returns the tokens of each text that has at most `most`, and is written back from them."""
    texts = list(texts)
    rows = token_ids(tokenizer, texts)
    written = tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=False)
    return {
        text: row
        for text, row, back in zip(texts, rows, written, strict=True)
        if 1 <= len(row) <= most and tokenizer.unk_token_id not in row and back == text
    }


def check_answer_tokens(answer_tokens: int) -> None:
    """Raises InputError for answers that may have no token."""
    if answer_tokens < 1:
        raise InputError(f'answer_tokens={answer_tokens}: an answer has at least 1')


def count_prefix(tokenizer: 'PreTrainedTokenizerFast', prefix: str) -> int:
    """Returns how many tokens BOS and a text in front of every prompt are; 0 without a text."""
    return 1 + len(token_ids(tokenizer, [prefix])[0]) if prefix else 0


def padding_id(tokenizer: 'PreTrainedTokenizerFast') -> int:
    """Returns the token on the right of short rows; it is never attended to, so any will do."""
    choices = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next(token for token in choices if token is not None)


def _pad(rows: list[list[int]], padding: int) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, rows), np.int32, len(rows))
    tokens = np.full((len(rows), lengths.max(initial=0)), padding, np.int32)
    filled = np.arange(tokens.shape[1]) < lengths[:, None]
    tokens[filled] = np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())
    return tokens, lengths
