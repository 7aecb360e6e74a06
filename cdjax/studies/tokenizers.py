"""Tokenizers of checkpoints, and whether two of them read the same text as the same tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from cdjax.circuits.circuit import tokenizer_hash
from cdjax.data import build_arithmetic_tokenizer
from cdjax.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_same_tokenizer(
    teacher: 'PreTrainedTokenizerBase', student: 'PreTrainedTokenizerBase', folder: Path, text: str
) -> None:
    """Raises InputError for a student that was trained on other tokens than it is going to see.

    Problems are encoded once, by the teacher's tokenizer. A student of as many tokens takes them
    for others of its own, and is distilled all the same, to nobody's use.

    Args:
        teacher: the teacher's tokenizer.
        student: that of the student's folder.
        folder: of the student, for the message.
        text: a prompt, whose first token tells the rule for BOS.
    """
    theirs, ours = tokenizer_hash(student), tokenizer_hash(teacher)
    if theirs != ours:
        raise InputError(
            f'student={folder} has a tokenizer of another vocabulary (hash {theirs}) than the '
            f"teacher's ({ours}): the same numbers mean other tokens; name a student of the "
            "teacher's family"
        )
    begins = [list(tokenizer(text).input_ids)[:1] for tokenizer in (teacher, student)]
    if begins[0] != begins[1]:
        first = [
            tokenizer.convert_ids_to_tokens(ids)
            for tokenizer, ids in ((teacher, begins[0]), (student, begins[1]))
        ]
        raise InputError(
            f'student={folder} begins {text!r} with {first[1]} and the teacher with {first[0]}: '
            'their rules for the token at the beginning (BOS) differ; give both the same '
            'tokenizer_config.json'
        )


def has_tokenizer(folder: Path | None) -> bool:
    """Tells whether the folder of a checkpoint, if there is one, holds a tokenizer."""
    return folder is not None and any(folder.glob('tokenizer*'))


def stand_in_tokenizer(vocab_size: int) -> 'PreTrainedTokenizerBase':
    """Returns a tokenizer of at most `vocab_size` tokens, with one for each number to 999."""
    largest = min(999, vocab_size - (len(build_arithmetic_tokenizer(9)) - 9))
    if largest < 9:
        raise InputError(f'a vocabulary of {vocab_size} tokens has no room for the digits')
    return build_arithmetic_tokenizer(largest)


def read_tokenizer(folder: Path) -> 'PreTrainedTokenizerBase':
    """Returns the tokenizer of a checkpoint's folder; InputError where it cannot be read."""
    from transformers import AutoTokenizer  # imports torch, where that is installed

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # what tokenizers raise of a damaged file is a bare Exception
        first_line = str(error).strip().partition('\n')[0]
        raise InputError(
            f'{folder} holds no tokenizer that can be read ({first_line}): put the tokenizer.json '
            'and tokenizer_config.json of the model there'
        ) from error
