"""What the arms align inside the teacher, told before any student is: how alike, and how much."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdjax.distillation.arms import CIRCUITS
from cdjax.distillation.headroom import CLOSE
from cdjax.distillation.patched_headroom import MOSTLY
from cdjax.report.names import arm_name, start_name
from cdjax.report.tables import headroom_rows, patch_rows
from cdjax.report.terminal_students import WIDTH
from cdjax.wording import number, plain_lines

CELL = 6


def headroom_table(starts: Mapping[str, Any], primary: Sequence[str] | None = None) -> str:
    """Returns how alike the targets of every two arms are, and what each contributes, by start.

    Of more arms than fit beside each other, how alike they are to the class circuits.

    Args:
        starts: what `Pipeline.headroom` returns, or `Pipeline.compare_arms`.
        primary: the two arms of the comparison that was decided on beforehand, if one was.
    """
    tables = []
    for start, found in starts.items():
        patches = found.get('patches', ())
        lines = [*_table(start, found['headroom']), *_patches(start, patches)]
        lines += _primary(found['headroom'], patches, primary)
        contributed = contribution_text(found.get('contribution', {}))
        tables.append(plain_lines(lines + textwrap.wrap(contributed, WIDTH)))
    return '\n\n'.join(filter(None, tables))


def contribution_text(contribution: Mapping[str, float | None]) -> str:
    """Returns what the columns of each arm contribute, in a line; nothing where none was measured.

    Args:
        contribution: of one start, see `ArmTables.headroom`.
    """
    told = [f'{arm_name(arm)} {number(part)}' for arm, part in contribution.items()]
    if not told:
        return ''
    return f'Contribution of columns, in parts of the class circuits’ (mean): {", ".join(told)}'


def _table(start: str, headroom: Mapping[str, Any]) -> Iterator[str]:
    rows = headroom_rows(headroom)
    if not rows:
        return
    title = f'Headroom, starting from {start_name(start)}: CKA'
    names = [f'{i:>4}  {name}' for i, (name, _) in enumerate(rows, 1)]
    width = max(map(len, names)) + 1
    if width + CELL * (len(rows) - 1) > WIDTH:
        base = CIRCUITS.key if CIRCUITS.key in headroom else next(iter(headroom))
        yield f'{title} with the target of {arm_name(base)}'
        for other, value in headroom[base].items():
            yield f'  {arm_name(other):<48}{number(value):>{CELL}}'
        return
    yield f'{title} of the targets of every two arms'
    yield ' ' * width + ''.join(f'{i:>{CELL}}' for i in range(1, len(rows)))
    for name, (_, values) in zip(names, rows, strict=True):
        yield f'{name:<{width}}' + ''.join(f'{number(value):>{CELL}}' for value in values)


def _patches(start: str, patches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not patches:
        return
    yield from textwrap.wrap(
        f'Headroom of patches, starting from {start_name(start)}: what the patched teacher answers '
        'for two arms. Agreement (1 − Jensen–Shannon divergence in bits), answers that a patch '
        'changes, and those of them that are the same with both',
        WIDTH,
    )
    rows = patch_rows(patches)
    width = max(len(name) for name, *_ in rows) + 2
    yield ' ' * width + 'agreement  changed  same'
    for name, *values in rows:
        cells = (f'{number(value):>{size}}' for value, size in zip(values, (9, 9, 6), strict=True))
        yield f'{name:<{width}}' + ''.join(cells)


def _primary(
    headroom: Mapping[str, Any],
    patches: Sequence[Mapping[str, Any]],
    primary: Sequence[str] | None,
) -> list[str]:
    """Returns the headroom of the primary comparison, or why it has none."""
    if primary is None:
        return []
    arm, against = primary
    bare = [key for key in primary if key not in headroom]
    patched = next((row for row in patches if {row['arm'], row['other']} == set(primary)), None)
    if patched is not None:
        told = (
            f'patched answers agree to {number(patched["agreement"])}, and are the same in '
            f'{number(patched["same"])} of those that a patch changes'
        )
        if patched['same'] is None or patched['same'] > MOSTLY:
            told += ': students can hardly tell the two apart'
    elif bare:
        told = f'none, for {" and ".join(bare)} aligns no activations'
    elif headroom[arm][against] is None:
        told = 'none, for they differ in how they compare or in classes, or no class has 4 problems'
    else:
        value = headroom[arm][against]
        told = f'CKA {number(value)}'
        if value > CLOSE:
            told += f', above {number(CLOSE)}: students can hardly tell the two apart'
    return textwrap.wrap(f'Headroom of the primary comparison, {arm} and {against}: {told}', WIDTH)
