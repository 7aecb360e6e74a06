"""Flags that are given and that nothing would read."""

from collections.abc import Iterable

from absl import flags

from cdjax.errors import InputError

FLAGS = flags.FLAGS


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
