"""Whether teacher and student read the same text as the same tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from cdjax.circuits.circuit import tokenizer_hash
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
