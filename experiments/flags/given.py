"""Which flags are given, and those of them that nothing would read."""

import sys
from collections.abc import Iterable

from absl import flags

from cdjax.errors import InputError

FLAGS = flags.FLAGS


def flag_of(word: str) -> str | None:
    """Returns the name of the flag that a word of a command sets, None if it sets none."""
    return word.lstrip('-').partition('=')[0] if word.startswith('-') else None


def on_command_line(name: str) -> bool:
    """Whether a flag stands in the command itself, and not just in a flag file."""
    return name in map(flag_of, sys.argv[1:])


def refuse_given(names: Iterable[str], why: str) -> None:
    """Raises InputError for the first of some flags that is given, whatever its value.

    Args:
        names: of the flags.
        why: nothing reads it, and what to do, behind NAME=VALUE.
    """
    for name in names:
        if FLAGS[name].present:
            value = FLAGS[name].value
            listed = ','.join(map(str, value)) if isinstance(value, list) else value
            raise InputError(f'{name}={listed} {why}')
