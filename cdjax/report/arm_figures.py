"""Figures of the students of each arm beside their accuracy, and what they differ from KD by."""

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from cdjax.report.names import arm_name, start_name
from cdjax.studies.costs import COSTS
from cdjax.studies.mechanism import MEASURES
from cdjax.wording import ABSENT, count, number, percent, points, points_interval


def mechanism_table(starts: Mapping[str, Any]) -> str:
    """Returns whether the mechanism moved, means over seeds and differences from KD, as text.

    Args:
        starts: what `Pipeline.compare_arms` returns; starts without a `mechanism` are left out.
    """
    names = {key: name for key, (name, _) in MEASURES.items()}
    return _by_start(starts, _figures('mechanism', 'Mechanism of students', names))


def costs_table(starts: Mapping[str, Any]) -> str:
    """Returns what else is told of students, means over seeds and differences from KD, as text.

    Args:
        starts: what `Pipeline.compare_arms` returns.
    """
    return _by_start(starts, _figures('costs', 'Beside the accuracy of students', COSTS))


def weights_table(starts: Mapping[str, Any]) -> str:
    """Returns the accuracy of each arm by weight, and the weight that it was given, as text.

    Args:
        starts: what `Pipeline.compare_arms` returns; starts without `weights` are left out.
    """
    return _by_start(starts, _weights)


def _weights(start: str, found: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    told = found.get('weights')
    if not told:
        return []
    grid = [f'{one["weight"]:g}' for one in told['arms'][0]['tried']]
    title = max(36, *(len(titles[row['arm']]) for row in told['arms']))
    lines = [
        f'Weight of each arm, from {start_name(start)}: accuracy in per cent by weight',
        *textwrap.wrap(weights_text(told), 100),
        f'{"":{title}}' + ''.join(f'{weight:>8}' for weight in grid) + f'{"chosen":>9}',
    ]
    for row in told['arms']:
        cells = ''.join(f'{100 * one["mean"]:>8.1f}' for one in row['tried'])
        lines.append(f'{titles[row["arm"]]:<{title}}{cells}{row["chosen"]:>9g}')
    return lines


def weights_text(told: Mapping[str, Any]) -> str:
    """Returns what weights were chosen on, and how, in a sentence."""
    text = (
        f'on {count(told["problems"], "problem")} of training forms outside the share, mean over '
        f'{count(len(told["seeds"]), "seed")} that the table lacks; unseen forms took no part, and '
        'the weight in force stayed where none was better by more than its standard error'
    )
    if told['knowable'] is None:
        return text
    return f'{text}; {percent(told["knowable"], 1)} of these problems can be known from the share'


def problems_table(starts: Mapping[str, Any]) -> str:
    """Returns mean accuracies by arm and training problems, and what alignment saves of these.

    Args:
        starts: what `Pipeline.compare_arms` returns; starts without `by_problems` are left out.
    """
    return _by_start(starts, _problems)


def _problems(start: str, found: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    told = found.get('by_problems')
    if not told:
        return []
    lines = [
        f'Accuracy on unseen problems by training problems, from {start_name(start)}',
        f'{"":36}' + ''.join(f'{n:>8,}' for n in told['problems']),
    ]
    for row in told['arms']:
        cells = ''.join(f'{100 * mean:>8.1f}' for mean in row['means'])
        lines.append(f'{titles[row["arm"]]:<36}{cells}')
    if told.get('knowable', [None])[0] is not None:  # earlier versions did not tell it
        cells = ''.join(f'{100 * part:>8.1f}' for part in told['knowable'])
        lines.append(f'{"in a table that the share shows":<36}{cells}')
    return lines + [f'    {line}' for line in map(saved_text, told['saves'])]


def knowable_text(part: float) -> str:
    """Returns how much of the unseen problems can be known, where answers stand in tables."""
    return (
        f'{percent(part, 1)} of the unseen problems have their entry of the table in a problem of '
        'the share; the others can only be guessed'
    )


def saved_text(saved: Mapping[str, Any]) -> str:
    """Returns how an arm with some problems compares with KD with twice as many, in a line."""
    interval = f' {points_interval(saved["interval"])}' if saved['interval'] else ''
    return (
        f'{arm_name(saved["arm"])} with {saved["problems"]:,} minus KD with '
        f'{saved["kd_problems"]:,}: {points(saved["difference"])}{interval} points'
    )


def flops_table(starts: Mapping[str, Any]) -> str:
    """Returns what a step of each arm costs, and its accuracy at the FLOPs of KD, as text.

    Args:
        starts: what `Pipeline.compare_arms` returns; starts without KD are left out.
    """
    return _by_start(starts, _flops)


def _flops(start: str, found: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    told = found.get('equal_flops')
    if not told or len(told) < 2:
        return []
    kd = next(row['step_flops'] for row in told if 'gain' not in row)
    lines = [
        f'Accuracy on unseen problems at the FLOPs of KD, from {start_name(start)}',
        f'{"":36}{"FLOPs of a step":>17}{"steps":>8}{"mean":>8}  gain over KD, points',
    ]
    for row in told:
        gain = ''
        if row.get('gain') is not None:
            gain = points(row['gain'])
            gain += f' {points_interval(row["gain_interval"])}' if row['gain_interval'] else ''
        mean = ABSENT if row['mean'] is None else f'{100 * row["mean"]:.1f}'
        cost = f'{number(row["step_flops"] / kd)} × KD'
        lines.append(
            f'{titles[row["arm"]]:<36}{cost:>17}{row["steps"]:>8,.0f}{mean:>8}  {gain}'.rstrip()
        )
    return lines


def _figures(field: str, title: str, names: Mapping[str, str]) -> Callable[..., list[str]]:
    """Returns what tells the rows of a field, one block for each of its figures."""

    def lines_of(start: str, found: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
        rows = found.get(field)
        if not rows:
            return []
        lines = [
            f'{title} from {start_name(start)}:',
            'mean, and difference from KD [95 % interval]',
        ]
        for key in [key for key in names if key in rows[0]]:
            lines.append(f'  {names[key]}')
            for row in rows:
                mean, of_kd = number(row[key]['mean'], 3), gain_text(row[key])
                seeds = f'{len(row[key]["values"])} of {row["seeds"]} students'
                line = f'    {titles[row["arm"]]:<36}{mean:>6}  {of_kd:<22}{seeds:>18}'
                lines.append(line.rstrip())
            before = [x for x in (found.get('first') or {}).get(key, ()) if x is not None]
            if before:
                mean = number(sum(before) / len(before), 3)
                lines.append(f'    {"before distillation":<36}{mean:>6}')
        return lines

    return lines_of


def _by_start(starts: Mapping[str, Any], lines_of: Callable[..., list[str]]) -> str:
    """Returns the sections of all starts that have one, as text.

    Args:
        starts: what `Pipeline.compare_arms` returns.
        lines_of: (start, its results, arm → title) → lines, none where there is nothing to tell.
    """
    sections = []
    for start, found in starts.items():
        titles = {row['arm']: row['title'] for row in found.get('table') or ()}
        sections.append('\n'.join(lines_of(start, found, titles)))
    return '\n\n'.join(section for section in sections if section)


def gain_text(told: Mapping[str, Any]) -> str:
    """Returns a difference from KD with its interval, where there are any."""
    if told.get('gain') is None:
        return ABSENT
    gain = number(told['gain'], 3, signed=True)
    interval = told['gain_interval']
    return gain if interval is None else f'{gain} [{", ".join(number(x, 3) for x in interval)}]'
