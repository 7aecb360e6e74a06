"""The tables that end a study that settles a question."""

from collections.abc import Mapping, Sequence
from typing import Any

from cdjax.circuits.methods import METHODS
from cdjax.wording import exact_percent, number, percent


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


def curves_table(
    title: str,
    sizes: Sequence[float],
    curves: Mapping[str, Mapping[str, Any]],
    bits: Mapping[str, float],
    others: Mapping[str, str],
) -> str:
    """Returns what the circuits of each arm keep, and what a sceptic asks of them.

    Args:
        title: what they are about.
        sizes: shares of the neurons.
        curves: by arm `accuracy` and `dead` at each size, and `rank`; see
            `cdjax.studies.settle.compare`.
        bits: by arm, what its classes tell of the answer; not of every arm.
        others: titles of arms that are no methods.
    """
    at = ''.join(f'{exact_percent(size):>7}' for size in sizes)
    lines = [title, f'{"accuracy with only circuits of":<40}{at}{"dead":>8}{"rank":>7}{"bits":>6}']
    for key, curve in curves.items():
        name = others[key] if key in others else METHODS[key].title
        kept = ''.join(f'{percent(part):>7}' for part in curve['accuracy'])
        rank, told = number(curve['rank'], signed=True), number(bits.get(key), 1)
        lines.append(f'{name:<40}{kept}{percent(max(curve["dead"])):>8}{rank:>7}{told:>6}')
    lines.append(
        'dead: the largest share, over sizes, of neurons that never vary; rank: correlation with '
        'AtP among the living.'
    )
    return '\n'.join(lines)
