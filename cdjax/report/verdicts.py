"""The table that ends a study that settles a question."""

from collections.abc import Mapping, Sequence
from typing import Any

from cdjax.wording import number


def verdict_table(title: str, verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Returns hypotheses with what was measured and the verdict, as plain text.

    Args:
        title: what they are about.
        verdicts: what `cdjax.studies.settle.verdicts.judge` returns.
    """
    lines = [title, f'{"":58}{"claimed":>9}{"mean":>8}{"95 %":>16}  verdict']
    for found in verdicts:
        sign = '≥' if found['above'] else '≤'
        claimed = f'{sign} {number(found["bound"])}'
        interval = found['interval']
        shown = '' if interval is None else ' to '.join(number(x) for x in interval)
        lines.append(
            f'{found["text"]:<58}{claimed:>9}{number(found["mean"]):>8}{shown:>16}  '
            f'{found["verdict"]}'
        )
    return '\n'.join(lines)
