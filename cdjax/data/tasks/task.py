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
    """

    key: str
    title: str
    examples: Callable[[], Sequence[Example]]


TASKS: Registry[Task] = Registry('task')
