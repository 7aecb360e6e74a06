"""A compiled program's text, as far as tests ask of it: computations, and what a loop holds."""

import re

_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) [({].*\{$')
_CALLED = re.compile(r'(?:calls|body|condition|to_apply)=%?([\w.\-]+)')
_RESULTS = re.compile(r'= (\(.+?\)|\S+) ([a-z][\w\-]*)\(')
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\]')


def computations(text: str) -> dict[str, list[str]]:
    """Returns the instructions of each computation of a program's text, by name."""
    found, current = {}, []
    for line in text.splitlines():
        named = _COMPUTATION.match(line)
        if named:
            current = found.setdefault(named[1], [])
        elif ' = ' in line:
            current.append(line.strip())
    return found


def within_loops(text: str) -> list[str]:
    """Returns the instructions of all loop bodies, and of what these call."""
    of = computations(text)
    waiting = [body for lines in of.values() for line in lines for body in _bodies(line)]
    seen = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [called for line in of[name] for called in _CALLED.findall(line)]
    return [line for name in sorted(seen) for line in of[name]]


def results(lines: list[str], *operations: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns dtype and shape of what instructions give, of all or of some such as 'dot'."""
    found = [_RESULTS.search(line) for line in lines]
    return [
        (dtype, tuple(int(n) for n in shape.split(',') if n))
        for m in found
        if m and (not operations or m[2] in operations)
        for dtype, shape in _ARRAY.findall(m[1])
    ]


def _bodies(line: str) -> list[str]:
    return re.findall(r'body=%?([\w.\-]+)', line) if ' while(' in line else []
