"""Launchers as a user starts them, many of them."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import forks
from forks import ROOT, Fork, wait_for_one


class Outcome(NamedTuple):
    """How a launcher ended: its exit status, and what it wrote."""

    code: int
    out: str
    err: str


def run_launchers(
    commands: dict[str, list[str]],
    streams: Path,
    *,
    at_once: int,
    seconds: int = 240,
    path: tuple[Path, ...] = (),
) -> dict[str, Outcome]:
    """Runs `python -m experiments.COMMAND` for each command, by name.

    Args:
        commands: name -> launcher and its flags.
        streams: an empty folder for what they write.
        at_once: how many run at a time.
        seconds: after which one that still runs is killed.
        path: folders where they look for modules.
    """
    running, ended = {}, dict.fromkeys(commands)

    def wait():
        wait_for_one([*running.values()])
        for name in [name for name, fork in running.items() if fork.poll() is not None]:
            ended[name] = running.pop(name).returncode

    for name, (launcher, *flags) in commands.items():
        if len(running) == at_once:
            wait()
        what = _program(name, launcher, flags, streams, seconds=seconds)
        running[name] = Fork(**what, path=path)
    while running:
        wait()
    return _outcomes(ended, streams)


def run_in_turn(
    commands: dict[str, list[str]],
    streams: Path,
    *,
    seconds: int = 240,
    programs: bool = False,
    cwd: Path = ROOT,
) -> dict[str, Outcome]:
    """Runs the same commands one after another in one process, and in a new one behind a crash.

    What launchers of their own process do is tested beside: this is for many commands, which share
    what they compile. Arguments as of `run_launchers`, and `cwd`, where they run. With `programs`,
    `streams` gets a folder `NAME.programs` of what each hands to XLA, as text, and no earlier one
    has handed over.
    """
    dump = lambda name: {'jax_dump_ir_to': str(streams / f'{name}.programs')} if programs else {}
    in_turn = [
        _program(name, launcher, flags, streams, cwd=cwd, seconds=seconds, config=dump(name))
        for name, (launcher, *flags) in commands.items()
    ]
    statuses = forks.run_in_turn(in_turn, Path(tempfile.mkdtemp(prefix='ended', dir=streams)))
    return _outcomes(dict(zip(commands, statuses, strict=True)), streams)


def _program(name, launcher, flags, streams, **more):
    places = {stream: streams / f'{name}.{stream}' for stream in ('out', 'err')}
    return {'program': f'experiments.{launcher}', 'arguments': flags, **places, **more}


def _outcomes(statuses, streams):
    text = lambda name, stream: (streams / f'{name}.{stream}').read_text()
    return {k: Outcome(code, text(k, 'out'), text(k, 'err')) for k, code in statuses.items()}
