"""The tables of students on the terminal: arms, tests, and circuits found again."""

import textwrap
from collections.abc import Mapping
from typing import Any

from cdjax.report.arm_figures import costs_table, flops_table, mechanism_table, problems_table
from cdjax.report.names import start_name
from cdjax.report.tables import TESTS, arm_rows, moved_rows, significance_rows
from cdjax.studies.arms import EQUIVALENT, REACH
from cdjax.wording import (
    ABSENT,
    NBSP,
    count,
    exact_percent,
    number,
    percent,
    percent_interval,
    plain_lines,
    points,
    points_interval,
)

WIDTH = 100
_SEEDS_SHOWN = 5


def arms_table(starts: Mapping[str, Any]) -> str:
    """Returns the accuracy of every arm by seed, a table for each start.

    Args:
        starts: what `Pipeline.compare_arms` returns.
    """
    return '\n\n'.join(plain_lines(_arms(start, found)) for start, found in starts.items())


def students_tables(starts: Mapping[str, Any]) -> str:
    """Returns what is told of students beside their accuracy, as far as it was measured.

    Args:
        starts: what `Pipeline.compare_arms` returns.
    """
    tables = (
        problems_table(starts),
        flops_table(starts),
        costs_table(starts),
        mechanism_table(starts),
    )
    return '\n\n'.join(table for table in tables if table).replace(NBSP, ' ')


def rediscovery_table(rediscovery: Mapping[str, Any]) -> str:
    """Returns the circuits found again in students, beside the teacher's.

    Args:
        rediscovery: by arm, see `results.json`.
    """
    if not rediscovery:
        return ''
    lines = [
        f'{"Circuits found again in the students":<40}{"whole":>9}{"with only the circuit":>24}'
        f'{"selectivity r":>16}{"chance":>9}'
    ]
    for row in moved_rows(rediscovery):
        lines.append(
            f'{row["title"]:<40}{percent(row["accuracy"], 1):>9}'
            f'{percent(row["only"], 1):>9} {percent_interval(row["only_interval"]):<14}'
            f'{number(row["correlation"]):>16}{number(row["chance"]):>9}'
        )
    return plain_lines(lines)


def _arms(start: str, found) -> list[str]:
    seeds = sorted({run['seed'] for run in found['runs']})
    shown = seeds[:_SEEDS_SHOWN]
    lines = [
        f'Starting from {start_name(start)}, accuracy on unseen problems by seed',
        f'{"":36}'
        + ''.join(f'{seed:>6}' for seed in shown)
        + f'{"mean":>8}  gain over KD, points'[: WIDTH - 36 - 6 * len(shown)],
    ]
    for row in arm_rows(found):
        of = dict(zip(row['seeds'], row['accuracies'], strict=True))
        cells = ''.join(f'{percent(of.get(seed), 1).removesuffix(f"{NBSP}%"):>6}' for seed in shown)
        gap = row['difference']
        gain = ''
        if gap is not None:
            gain = points(gap.value)
            gain += f' {points_interval(gap.interval)}' if gap.interval else ' (one seed)'
        lines.append(f'{row["title"]:<36}{cells}{100 * row["mean"]:>8.1f}  {gain}')
    lines += _primary(found) + _dissociation(found)
    if len(seeds) > len(shown):
        lines.append(f'(the first {len(shown)} of {len(seeds)} seeds; means are over all)')
    lines += _tests(found)
    if found['first'] is not None:
        before = ', '.join(percent(value, 1) for value in found['first']['unseen'][:_SEEDS_SHOWN])
        lines.append(f'before distillation: {before}')
    return lines


def _primary(found) -> list[str]:
    """Returns the comparison that was decided on beforehand, if one was."""
    told = found.get('primary')
    if told is None:
        return []
    interval = f' {points_interval(told["interval"])}' if told['interval'] else ''
    p, equal = number(told['p'], 3), number(told['p_equivalent'], 3)
    return textwrap.wrap(
        f'Primary, decided beforehand (analysis {told["analysis"]}): {told["arm"]} minus '
        f'{told["against"]}, {count(len(told["seeds"]), "seed")}: {points(told["difference"])} '
        f'points{interval}, p {p}; within ±1 point: p {equal}',
        WIDTH,
    )


def _dissociation(found) -> list[str]:
    """Returns whether the circuits of two classes move each its own, if that was asked."""
    told = found.get('dissociation')
    if told is None:
        return []
    interval = f' {points_interval(told["interval"])}' if told['interval'] else ''
    text = (
        f'Double dissociation, {count(len(told["seeds"]), "seed")}: what the circuit of each of '
        f'two classes adds to its own class more than to the other, summed: '
        f'{points(told["interaction"])} points{interval}, p {number(told["p"], 3)}'
    )
    if told['gains'] is not None:
        first, second = ([points(gain) for gain in row] for row in told['gains'])
        text += (
            f"; over KD, the first class's circuit {first[0]} there and {first[1]} on the second, "
            f"the second's {second[0]} on the first and {second[1]} there"
        )
    return textwrap.wrap(text, WIDTH)


def pooled_lines(rows) -> str:
    """Returns the gains of several tables taken together, see `studies.analysis.pooled_table`."""
    lines = ['All tables together: gain over KD, points [bootstrap of tables and students]']
    for row in rows:
        interval = f' {points_interval(row["interval"])}' if row['interval'] else ' (one table)'
        of = f'{count(row["tables"], "table")}, {count(row["students"], "student")}'
        lines.append(f'{row["title"]:<36}{points(row["gain"]):>7}{interval:<18}{of:>28}')
    return plain_lines(lines)


def _tests(found) -> list[str]:
    """Returns what tests say of the gains over KD, where there are seeds enough to test them."""
    rows = significance_rows(found)
    if not rows:
        return []
    within = f'p, within ±{exact_percent(EQUIVALENT).removesuffix(f"{NBSP}%")} point'
    reach = f'steps to {exact_percent(REACH)}'
    lines = [f'{"Tests of the gain over KD":<36}{"p":>8}{"Holm":>8}{within:>20}{reach:>16}']
    for row in rows:
        p, corrected, equivalent = (number(row[key], 3) for key in TESTS)
        steps = ABSENT if row['steps'] is None else f'{row["steps"]:,.0f}'
        lines.append(f'{row["title"]:<36}{p:>8}{corrected:>8}{equivalent:>20}{steps:>16}')
    return lines
