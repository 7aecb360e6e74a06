"""The tables of students on the terminal: arms, tests, and circuits found again."""

import statistics
import textwrap
from collections.abc import Mapping
from typing import Any

from cdjax.report.arm_figures import (
    costs_table,
    flops_table,
    knowable_text,
    mechanism_table,
    problems_table,
    weights_table,
)
from cdjax.report.names import arm_name, start_name
from cdjax.report.tables import (
    TESTS,
    arm_rows,
    moved_rows,
    significance_rows,
    steps_rows,
)
from cdjax.studies.arms import EQUIVALENT, REACH
from cdjax.wording import (
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
# More seeds than these have lines of their own, and beside the means what names their spread.
_SEEDS_INLINE, _SPREAD = 5, ('lowest', 'median', 'highest')


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
        weights_table(starts),
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
        f'{"Circuits found again in the students":<39}{"neurons":>8}{"whole":>8}'
        f'{"with only the circuit":>24}{"selectivity r":>14}{"chance":>7}'
    ]
    for row in moved_rows(rediscovery):
        lines.append(
            f'{row["title"]:<39}{percent(row["share"]):>8}{percent(row["accuracy"], 1):>8}'
            f'{percent(row["only"], 1):>9} {percent_interval(row["only_interval"]):<14}'
            f'{number(row["correlation"]):>14}{number(row["chance"]):>7}'
        )
    return plain_lines(lines)


def _arms(start: str, found) -> list[str]:
    seeds = sorted({run['seed'] for run in found['runs']})
    each, rows = len(seeds) <= _SEEDS_INLINE, arm_rows(found)
    heads = [f'{seed:>6}' for seed in seeds] if each else [f'{name:>9}' for name in _SPREAD]
    how = 'by seed' if each else f'over {count(len(seeds), "seed")}'
    title = max(36, *(len(row['title']) for row in rows))
    head = f'{"":{title}}{"".join(heads)}{"mean":>8}  gain over KD, points'
    lines = [
        f'Starting from {start_name(start)}, accuracy on unseen problems {how}',
        head[:WIDTH],
    ]
    for row in rows:
        values = _by_seed(row, seeds) if each else _spread(row['accuracies'])
        cells = ''.join(f'{_share(x):>{len(head)}}' for x, head in zip(values, heads, strict=True))
        gap = row['difference']
        gain = ''
        if gap is not None:
            gain = points(gap.value)
            gain += f' {points_interval(gap.interval)}' if gap.interval else ' (one seed)'
        lines.append(f'{row["title"]:<{title}}{cells}{100 * row["mean"]:>8.1f}  {gain}')
    lines += _primary(found) + _dissociation(found)
    if not each:
        lines += _every_seed(rows, seeds)
    lines += _tests(found) + _steps(found)
    if found.get('knowable') is not None:
        lines += textwrap.wrap(f'{knowable_text(found["knowable"])}.', WIDTH)
    if found['first'] is not None:
        before = found['first']['unseen']
        shown = before if len(before) <= _SEEDS_INLINE else _spread(before)
        named = (
            '' if shown is before else f' ({", ".join(_SPREAD)} of {count(len(before), "seed")})'
        )
        listed = ', '.join(percent(value, 1) for value in shown)
        lines.append(f'before distillation{named}: {listed}')
    return lines


def _by_seed(row, seeds) -> list[float | None]:
    of = dict(zip(row['seeds'], row['accuracies'], strict=True))
    return [of.get(seed) for seed in seeds]


def _spread(accuracies) -> list[float]:
    """Returns what `_SPREAD` names."""
    return [min(accuracies), statistics.median(accuracies), max(accuracies)]


def _share(value: float | None) -> str:
    return percent(value, 1).removesuffix(f'{NBSP}%')


def _every_seed(rows, seeds) -> list[str]:
    """Returns the accuracy of every student, where a line has room for those of an arm."""
    title = max(len(row['title']) for row in rows)
    cell = max(5, *(len(str(seed)) + 1 for seed in seeds))
    if title + cell * len(seeds) > WIDTH:
        return []
    lines = [f'{"By seed":<{title}}' + ''.join(f'{seed:>{cell}}' for seed in seeds)]
    for row in rows:
        cells = ''.join(f'{_share(value):>{cell}}' for value in _by_seed(row, seeds))
        lines.append(f'{row["title"]:<{title}}{cells}')
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
    """Returns several tables taken together, see `studies.analysis.pooled_table`."""
    most = max(rows, key=lambda row: row['tables'])
    lines = textwrap.wrap(
        f'All tables together, {count(most["teachers"], "teacher")} and '
        f'{count(most["tables"], "discovery", "discoveries")}: differences in points [bootstrap of '
        'teachers, of discoveries within them and of students], and where these are few Student’s '
        't over the means of teachers (of discoveries, where there is one teacher)',
        WIDTH,
    )
    for row in (row for row in rows if row['primary']):
        lines.append('Primary, decided beforehand')
        lines.append(_pooled_line(f'  {arm_name(row["arm"])} minus', row))
        lines.append(f'  {arm_name(row["against"])}')
    lines.append(
        f'{"Gain over KD":<40}{"":>7} {"bootstrap":<16} {"Student’s t":<16}{"students":>10}'
    )
    lines += [_pooled_line(row['title'], row) for row in rows if not row['primary']]
    return plain_lines(lines)


def _pooled_line(title: str, row) -> str:
    interval = points_interval(row['interval']) if row['interval'] else '(one table)'
    few = points_interval(row['t_interval']) if row['t_interval'] else ''
    return f'{title:<40}{points(row["gain"]):>7} {interval:<16} {few:<16}{row["students"]:>10,}'


def _tests(found) -> list[str]:
    """Returns what tests say of the gains over KD, where there are seeds enough to test them."""
    rows = significance_rows(found)
    if not rows:
        return []
    within = f'p, within ±{exact_percent(EQUIVALENT).removesuffix(f"{NBSP}%")} point'
    lines = [f'{"Tests of the gain over KD":<40}{"p":>8}{"Holm":>8}{within:>20}']
    for row in rows:
        p, corrected, equivalent = (number(row[key], 3) for key in TESTS)
        lines.append(f'{row["title"]:<40}{p:>8}{corrected:>8}{equivalent:>20}')
    return lines


def _steps(found) -> list[str]:
    """Returns how soon students reach the accuracy whose steps are compared."""
    what, rows = f'{exact_percent(REACH)} of unseen problems', steps_rows(found)
    if not rows:
        return [f'No student reaches {what}.']
    lines = [f'{f"Steps to {what}":<40}{"students":>10}{"mean":>8}  minus KD’s']
    for row in rows:
        reached, gap = f'{row["reached"]} of {row["seeds"]}', row['difference']
        told = ''
        if gap is not None:
            told = number(gap.value, 0, signed=True)
            if gap.interval is not None:
                told += f' [{", ".join(number(x, 0, signed=True) for x in gap.interval)}]'
        lines.append(f'{row["title"]:<40}{reached:>10}{number(row["steps"], 0):>8}  {told}')
    return lines
