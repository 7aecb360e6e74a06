"""Whether the teacher's mechanism moved into the students of each arm, as text."""

from collections.abc import Mapping
from typing import Any

from cdjax.report.names import start_name
from cdjax.studies.mechanism import MEASURES
from cdjax.wording import ABSENT, number


def mechanism_table(starts: Mapping[str, Any]) -> str:
    """Returns the figures of each arm, means over seeds, and what they differ from KD by.

    Args:
        starts: what `Pipeline.compare_arms` returns; starts without a `mechanism` are left out.
    """
    lines = []
    for start, found in starts.items():
        if not found.get('mechanism'):
            continue
        titles = {row['arm']: row['title'] for row in found['table']}
        lines += [
            *([''] if lines else []),
            f'Mechanism of students from {start_name(start)}: mean, and difference from KD '
            '[95 % interval]',
        ]
        for key, (name, _) in MEASURES.items():
            lines.append(f'  {name}')
            for row in found['mechanism']:
                mean, of_kd = number(row[key]['mean']), gain_text(row[key])
                seeds = f'{len(row[key]["values"])} of {row["seeds"]} students'
                line = f'    {titles[row["arm"]]:<36}{mean:>6}  {of_kd:<22}{seeds:>18}'
                lines.append(line.rstrip())
    return '\n'.join(lines)


def gain_text(told: Mapping[str, Any]) -> str:
    """Returns a difference from KD with its interval, where there are any."""
    if told.get('gain') is None:
        return ABSENT
    gain = number(told['gain'], signed=True)
    interval = told['gain_interval']
    return gain if interval is None else f'{gain} [{", ".join(number(x) for x in interval)}]'
