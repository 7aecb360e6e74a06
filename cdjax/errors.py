"""The one exception that stands for a user's mistake."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class InputError(ValueError):
    """A value from outside is wrong: the message names it, what was expected, and what to do.

    Launchers print it as one line and exit with status 1. A mistake of the program's own is
    any other exception, and keeps its traceback.
    """


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Has an InputError name values as the user knows them, NAME=VALUE.

    Args:
        names: name in the message → name that the user knows; others stay as they are.
    """
    try:
        yield
    except InputError as error:
        known = lambda found: names.get(found[0], found[0])
        raise InputError(re.sub(r'\b[a-z_]+(?==)', known, str(error))) from error


def check_finite(**values: float) -> None:
    """Raises InputError for a number that is NaN or infinite, by the name it is given under.

    A training would take it, run to its end and store figures of nothing.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(f'{name}={value} must be a finite number')


def check_seed(**values: int) -> None:
    """Raises InputError for a seed outside 0 to 2^32 - 1, by the name it is given under.

    JAX takes the lower 32 bits of a seed: 2^32 draws what 0 draws, and would count as another.
    """
    for name, value in values.items():
        if not 0 <= value < 2**32:
            raise InputError(f'{name}={value} must not be negative, and below 2^32')
