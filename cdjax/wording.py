"""Numbers and lists as text, the same in sentences, tables and on the terminal."""

import difflib
from collections.abc import Iterable, Sequence

NBSP, MINUS, ABSENT = '\u00a0', '\u2212', '–'


def percent(share: float | None, digits: int | None = None) -> str:
    """Returns a share as per cent: `.941` is `94 %`; one decimal below 1 and from 99 on."""
    if share is None:
        return ABSENT
    if digits is None:
        digits = 1 if 0 < share < 0.01 or 0.99 <= share < 1 else 0
    return f'{100 * share:.{digits}f}{NBSP}%'


def exact_percent(share: float) -> str:
    """Returns a size as per cent with as many decimals as it needs: `.15` is `15 %`."""
    return f'{100 * share:.3g}{NBSP}%'


def points(difference: float) -> str:
    """Returns a difference of shares in signed percentage points: `+23.1`."""
    return number(100 * difference, 1, signed=True)


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Returns a number with a true minus sign; what rounds to nothing has no sign."""
    if value is None:
        return ABSENT
    text = f'{value:+.{digits}f}' if signed else f'{value:.{digits}f}'
    return text.lstrip('+-') if float(text) == 0 else text.replace('-', MINUS)


def percent_interval(interval: Sequence[float] | None) -> str:
    """Returns an interval of shares in per cent, `[92.6, 95.5]`."""
    if interval is None:
        return ABSENT
    return f'[{100 * interval[0]:.1f},{NBSP}{100 * interval[1]:.1f}]'


def points_interval(interval: Sequence[float] | None) -> str:
    """Returns an interval of differences in signed points, `[+11.0, +35.2]`."""
    return ABSENT if interval is None else f'[{points(interval[0])},{NBSP}{points(interval[1])}]'


def count(n: int, one: str, many: str | None = None) -> str:
    """Returns a number of things: `1 seed`, `12,000 problems`."""
    return f'{n:,}{NBSP}{one if n == 1 else many or one + "s"}'


def listing(parts: Sequence[str]) -> str:
    """Returns `a, b and c`."""
    *others, last = list(parts) or ['']
    return f'{", ".join(others)} and {last}' if others else last


def choose_from(name: str, known: Iterable[str]) -> str:
    """Returns what to write in place of a name that is not known: the nearest first, then all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=2)
    meant = f'did you mean {" or ".join(close)}? ' if close else ''
    return f'{meant}choose from {", ".join(known)}'


def sentence(text: str) -> str:
    """Returns the text with a capital at its start and a full stop at its end."""
    return f'{text[:1].upper()}{text[1:]}.'


def plain_lines(lines: Sequence[str]) -> str:
    """Returns lines as text for a terminal: without no-break spaces and trailing ones."""
    return '\n'.join(line.rstrip() for line in lines).replace(NBSP, ' ').strip('\n')
