"""Which flags belong together, for --help."""

import functools
from collections.abc import Callable

from absl import flags

# Title → names, in the order in which a launcher defines them.
GROUPS: dict[str, list[str]] = {}


def group(title: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Puts the flags that a function defines under a title, but for those that have one already."""

    def decorate(define: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(define)
        def defined(*args, **kwargs) -> None:
            names = GROUPS.setdefault(title, [])
            before = set(flags.FLAGS)
            define(*args, **kwargs)
            grouped = {name for of_group in GROUPS.values() for name in of_group}
            new = {n for n in flags.FLAGS if n not in before and n not in grouped}
            names[:] = [n for n in flags.FLAGS if n in new.union(names)]  # as they are defined

        return defined

    return decorate
