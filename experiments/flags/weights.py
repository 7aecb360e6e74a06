"""Weights of the terms of a loss, as TERM=WEIGHT,..."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from cdjax.errors import InputError

Weights = TypeVar('Weights')


def terms(weights: object) -> list[str]:
    """Returns the terms that have a weight."""
    return [field.name for field in dataclasses.fields(weights)]


def weights_from_flag(flag: str, parts: Sequence[str], weights: Weights, of: str) -> Weights:
    """Returns weights with those that a flag names in place of their own.

    Args:
        flag: name of the flag.
        parts: what it was given, TERM=WEIGHT each.
        weights: a dataclass of numbers.
        of: what they are the weights of, for messages.

    Raises:
        InputError: a term that is not there or given twice, or what is no number.
    """
    given: dict[str, float] = {}
    for part in parts:
        name, _, value = part.partition('=')
        if name in given:
            raise InputError(f'{flag}: {name} is given twice')
        try:
            given[name] = float(value)
        except ValueError:
            raise InputError(f'{flag}={part!r}: write TERM=NUMBER') from None
        if name not in terms(weights):
            raise InputError(
                f'{flag}: {name!r} is no term of {of}; its terms are {", ".join(terms(weights))}'
            )
    return dataclasses.replace(weights, **given)
