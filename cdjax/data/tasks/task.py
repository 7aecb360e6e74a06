"""What a generated task is."""

import dataclasses
from collections.abc import Callable, Sequence

from cdjax.data.examples import Example
from cdjax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Task:
    """Problems that a function makes.

    Attributes:
        key: what `--task` and results know it by.
        title: what it is, for people.
        examples: makes all problems, in the same order each time.
        entry: names the entry of a table that a prompt's answer is read from, where nothing but the
            table tells it: a problem whose entry occurs in no other can only be guessed. None where
            answers follow a rule.
    """

    key: str
    title: str
    examples: Callable[[], Sequence[Example]]
    entry: Callable[[str], str] | None = None


TASKS: Registry[Task] = Registry('task')
