"""The first line of a run, and with --dry_run all that it is going to do."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from cdjax.studies.outlook import Outlook, Stage
from cdjax.wording import count
from experiments.command_line import flagfiles, told_by
from experiments.flags.given import flag_of
from experiments.launch import say

FLAGS = flags.FLAGS

# Flags that change no time, and words that are none.
TIMELESS = {None, 'flagfile', 'workdir', 'dry_run', 'compilation_cache'}
NOTHING = 'nothing was claimed, loaded or written'  # the last line of a dry run


def announce(outlook: Outlook) -> None:
    """Prints what will run, how much it is, and where; with --dry_run all of it, and ends there."""
    say(first_line(outlook))
    if FLAGS.dry_run:
        say(plan(outlook))
        sys.exit(0)


def announce_measuring(line: str, facts: Mapping[str, Any], *, time: str | None = None) -> None:
    """Prints what a launcher without trainings is going to do; with --dry_run ends there.

    Args:
        line: what, of what and where to.
        facts: all that decides it, which a dry run prints too.
        time: how long it takes; if None, what `how_long` returns.
    """
    say(f'{line}; {time or how_long(sys.argv)}')
    if FLAGS.dry_run:
        say('\n'.join(['', 'configuration:', *settings(facts), '', NOTHING]))
        sys.exit(0)


def first_line(outlook: Outlook) -> str:
    """Returns what will run, how much it is, on what, where and how long, in one line."""
    parts = [f'{count(outlook.trainings, "training")} of {count(outlook.steps, "step")}']
    if outlook.searching:
        parts.append(f'besides the searches of {count(outlook.searching, "stage")}')
    else:
        parts[0] += ' in all'
    time = how_long(sys.argv)
    if outlook.done == len(outlook.stages):
        parts.append('all of it is done')
        time = 'it is read again'
    elif outlook.left < outlook.steps:
        parts.append(f'{count(outlook.left, "step")} left')
    devices = outlook.mesh.devices
    parts.append(f'on {count(devices.size, "device")} ({devices.flat[0].device_kind})')
    return f'{outlook.name}: {", ".join(parts)}; in {outlook.workdir}; {time}'


def how_long(arguments: Sequence[str]) -> str:
    """Returns what the recipe of a command says of its time, or where the time will be told.

    Where the command has other flags beside it, that it is the time of the recipe as it stands.
    """
    for recipe in flagfiles(arguments):
        if told := told_by(recipe, 'Time'):
            own = (told_by(recipe, 'Command') or '').split()
            others = set(map(flag_of, arguments[1:])) - set(map(flag_of, own)) - TIMELESS
            says = f'as {recipe.name} stands' if others else f'{recipe.name} says'
            return f'{says}: {told.rstrip(".")}'
    return 'the time that is left is told on the way'


def plan(outlook: Outlook) -> str:
    """Returns configuration, stages and memory of a run as lines of text."""
    lines = ['', 'configuration, as config.json will hold it:', *settings(outlook.facts)]
    lines += ['', f'stages ({outlook.done} of {len(outlook.stages)} done):']
    width = max((len(stage.name) for stage in outlook.stages), default=0)
    lines += [f'  {s.name:<{width}}  {_steps(s):>22}  {_state(s)}'.rstrip() for s in outlook.stages]
    lines += [
        '',
        f'memory: at least {_size(outlook.memory)} of {_size(outlook.memory_there)}: weights, '
        'optimizer and what a step keeps;',
        '  experiments.plan compiles the steps, and knows to the byte',
        'time: each training tells its rate and the time left from its first steps on',
        NOTHING,
    ]
    return '\n'.join(lines)


def settings(facts: Mapping[str, Any]) -> list[str]:
    """Returns a configuration as lines: dotted names and values."""
    return [f'  {name} = {json.dumps(value)}' for name, value in leaves(facts)]


def leaves(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """Yields the settings of a configuration: dotted name, value."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from leaves(part, f'{name}.{key}'.lstrip('.'))
    else:
        yield name, value


def _steps(stage: Stage) -> str:
    if stage.steps is None:
        return 'searches of its own'
    return '' if stage.steps == 0 else count(stage.steps, 'step')


def _size(size: float) -> str:
    return f'{size / 1e6:.0f} MB' if size < 1e9 else f'{size / 1e9:,.1f} GB'


def _state(stage: Stage) -> str:
    if stage.done:
        return 'done'
    return f'at step {stage.reached:,}' if stage.reached else ''
