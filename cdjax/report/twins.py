"""Whose rule the students of twin teachers follow, as text."""

from collections.abc import Mapping
from typing import Any

from cdjax.report.verdicts import verdict_table
from cdjax.wording import count, number, percent


def twins_table(results: Mapping[str, Any]) -> str:
    """Returns what students answer where the cues differ, by arm, and the verdicts.

    Args:
        results: what `cdjax.studies.twins.study_twins` returns.
    """
    lines = [
        f'{count(len(results["teachers"]), "pair")} of teachers, protocol {results["protocol"]}; '
        'where the cues differ, students answer by the rule of',
        f'{"":36}{"cues agree":>11}{"own":>8}{"the other":>11}{"own − other":>13}  95 %',
    ]
    for row in results['arms']:
        if 'followed' not in row:
            continue
        interval = row['interval']
        shown = '' if interval is None else f'[{", ".join(number(x) for x in interval)}]'
        lines.append(
            f'{row["title"]:<36}{percent(row["unseen"], 1):>11}{percent(row["own"], 1):>8}'
            f'{percent(row["rival"], 1):>11}{number(row["followed"], signed=True):>13}  {shown}'
        )
    for primary, title in ((True, 'Primary, decided beforehand'), (False, 'Beside them')):
        verdicts = [one for one in results['verdicts'] if one['primary'] == primary]
        if verdicts:
            lines += ['', verdict_table(title, verdicts)]
    return '\n'.join(lines)
