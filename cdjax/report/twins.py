"""Whose rule the students of twin teachers follow, as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from cdjax.report.verdicts import verdict_table
from cdjax.wording import count, number, percent


def twins_table(results: Mapping[str, Any]) -> str:
    """Returns what students answer where the cues differ, by arm, and the verdicts.

    Args:
        results: what `cdjax.studies.twins.study_twins` returns.
    """
    pairs = count(len(results['teachers']), 'pair')
    measured = [row for row in results['arms'] if 'followed' in row]
    few = any(row['t_interval'] is not None for row in measured)
    head = (
        f'{"":36}{"cues agree":>11}{"own":>8}{"the other":>11}{"own − other":>13}  {"95 %":<16}'
        f'{f"t of {pairs}" if few else ""}'
    )
    lines = [
        f'{pairs} of teachers, protocol {results["protocol"]}; '
        'where the cues differ, students answer by the rule of',
        head.rstrip(),
    ]
    for row in measured:
        line = (
            f'{row["title"]:<36}{percent(row["unseen"], 1):>11}{percent(row["own"], 1):>8}'
            f'{percent(row["rival"], 1):>11}{number(row["followed"], signed=True):>13}  '
            f'{_interval(row["interval"]):<16}{_interval(row["t_interval"])}'
        )
        lines.append(line.rstrip())
    for primary, title in ((True, 'Primary, decided beforehand'), (False, 'Beside them')):
        verdicts = [one for one in results['verdicts'] if one['primary'] == primary]
        if verdicts:
            lines += ['', verdict_table(title, verdicts)]
    if few:
        lines += ['', f'Verdicts go by a bootstrap; Student’s t over {pairs} is wider:']
    for one in results['verdicts']:
        if one['t_interval'] is not None:
            told = f'{number(one["mean"], signed=True):>9}  {_interval(one["t_interval"])}'
            lines.append(f'{one["text"]:<58}{told}')
    return '\n'.join(lines)


def _interval(interval: Sequence[float] | None) -> str:
    return '' if interval is None else f'[{", ".join(number(x) for x in interval)}]'
