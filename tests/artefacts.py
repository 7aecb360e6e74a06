"""What docs/artefacts.md and a real file do not agree about, either way."""

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

DOC = Path(__file__).parents[1] / 'docs' / 'artefacts.md'

TYPES = {
    'count': lambda x: type(x) is int and x >= 0,
    'part': lambda x: _is_number(x) and 0 <= x <= 1,
    'number': lambda x: _is_number(x),
    'text': lambda x: isinstance(x, str),
    'flag': lambda x: isinstance(x, bool),
    'hash': lambda x: isinstance(x, str) and re.fullmatch(r'[0-9a-f]{16}([0-9a-f]{48})?', x),
    'any': lambda x: True,
}


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and math.isfinite(x)


@cache
def fields(section: str) -> dict[tuple[str, ...], str]:
    """Returns path -> type of the fields of a section, those of sections that are like it too."""
    text = DOC.read_text()
    parts = dict(re.findall(r'^## (.+)\n((?:(?!## ).*\n)*)', text, re.M))
    rows = re.findall(r'^\| `([^`]+)` \| ((?:optional |like )?[^|]+?) \|', parts[section], re.M)
    found = {}
    for name, kind in rows:
        path = tuple(re.findall(r'\[\]|[^.\[\]]+', name))
        if not kind.startswith('like '):
            found[path] = kind
            continue
        path = () if name == 'FIELD' else path
        other = kind.removeprefix('like ')
        null = '?' if other.endswith('?') else ''
        for inner, its_kind in fields(other.rstrip('?')).items():
            its_kind = its_kind.removeprefix('optional ')
            its_kind = its_kind.removesuffix(null) + null
            found[path + inner] = f'optional {its_kind}'
    return found


def leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields path and value of all that is neither an object nor a list."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*at, key))
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part, (*at, '[]'))
    else:
        yield at, value


def disagreements(section: str, content: Any) -> list[str]:
    """Returns what a section of the page and the content of a real file do not agree about."""
    known, seen, problems = fields(section), set(), {}
    for path, value in leaves(content):
        fits = [pattern for pattern in known if _fits(pattern, path, known[pattern], value)]
        # A field that has its own line is not one of those that stand for any.
        pattern = max(fits, key=_literals, default=None)
        name = '.'.join(path)
        if pattern is None:
            problems[name] = f'{name} is not on the page'
            continue
        seen.add(pattern)
        kind = known[pattern].removeprefix('optional ')
        right = TYPES[kind.rstrip('?')](value) or (value is None and kind.endswith('?'))
        if not right:
            problems[name] = f'{name} is {value!r}, on the page it is {kind}'
    absent = [
        f'{".".join(pattern)} is on the page alone'
        for pattern, kind in known.items()
        if pattern not in seen and not kind.startswith('optional ') and kind != 'any'
    ]
    return [*problems.values(), *absent]


def _literals(pattern: tuple[str, ...]) -> int:
    return sum(not part.isupper() for part in pattern)


def _fits(pattern: tuple[str, ...], path: tuple[str, ...], kind: str, value: Any) -> bool:
    # What may be anything has fields of its own; null in place of an object or a list has none.
    whole = kind.rstrip('?').endswith('any') and len(path) > len(pattern)
    cut = value is None and kind.endswith('?') and len(path) < len(pattern)
    if not whole and not cut and len(path) != len(pattern):
        return False
    pairs = zip(pattern, path, strict=False)
    return all(part == name or (part.isupper() and name != '[]') for part, name in pairs)
