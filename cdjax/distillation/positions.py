"""Positions of a prompt by name: where its operands are, or all of the question."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from cdjax.data import Dataset
from cdjax.data.token_rows import TokenRows
from cdjax.distillation.alignment import ANSWER, OPERANDS, QUESTION, Alignment
from cdjax.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def locate(
    alignment: Alignment, dataset: Dataset, tokenizer: 'PreTrainedTokenizerBase'
) -> Alignment:
    """Returns an alignment whose positions are numbers, or None for the answer position.

    `question` are the positions from the first at which prompts differ on: neither BOS nor a prefix
    that all share says anything of a problem. `operands` are those of them that hold a number in
    every prompt.

    Args:
        alignment: its positions may be a name.
        dataset: the problems, of prompts of one length where positions are named.
        tokenizer: their tokenizer.

    Raises:
        InputError: prompts of several lengths, or none that holds a number everywhere.
    """
    if not isinstance(alignment.positions, str):
        return alignment
    name, found = alignment.positions, None
    if name != ANSWER:
        tokens, end = dataset.tokens, int(dataset.lengths.max())
        sizes = dataset.prompt_sizes
        if (sizes != sizes[0]).any():
            raise InputError(
                f'align_positions={name}: prompts have {sizes.min()} to {sizes.max()} tokens, and '
                'no position is the same in all; leave it out, for that of the answer'
            )
        tokens = tokens.tokens if isinstance(tokens, TokenRows) else tokens
        differ = np.flatnonzero((tokens[:, :end] != tokens[:1, :end]).any(axis=0))
        found = tuple(range(int(differ[0]) if len(differ) else end - 1, end))
        if name == OPERANDS:
            found = tuple(p for p in found if _numbers(np.unique(tokens[:, p]), tokenizer))
            if not found:
                raise InputError(
                    f'align_positions={OPERANDS}: at no position do all prompts hold a number; '
                    f'write {QUESTION}, or numbers such as 1,3'
                )
    return dataclasses.replace(alignment, positions=found)


def _numbers(ids: np.ndarray, tokenizer: 'PreTrainedTokenizerBase') -> bool:
    return all(tokenizer.decode([int(token)]).strip().isdecimal() for token in ids)
