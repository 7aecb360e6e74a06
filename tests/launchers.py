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
    programs: bool = False,
    cwd: Path = ROOT,
    path: tuple[Path, ...] = (),
) -> dict[str, Outcome]:
    """Runs `python -m experiments.COMMAND` for each command, by name.

    Args:
        commands: name -> launcher and its flags.
        streams: an empty folder for what they write.
        at_once: how many run at a time.
        seconds: after which one that still runs is killed.
        programs: keep what each hands to XLA, as text, in the folder `NAME.programs` of `streams`.
        cwd: where they run.
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
        places = {'cwd': cwd, 'path': path}
        running[name] = Fork(
            **_program(name, launcher, flags, streams, programs, seconds=seconds, **places)
        )
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
    what they compile. Arguments as of `run_launchers`; of `programs`, those that were not handed
    over before.
    """
    in_turn = [
        _program(name, launcher, flags, streams, programs, cwd=cwd, seconds=seconds)
        for name, (launcher, *flags) in commands.items()
    ]
    statuses = forks.run_in_turn(in_turn, Path(tempfile.mkdtemp(prefix='ended', dir=streams)))
    return _outcomes(dict(zip(commands, statuses, strict=True)), streams)


def _program(name, launcher, flags, streams, programs, **more):
    places = {stream: streams / f'{name}.{stream}' for stream in ('out', 'err')}
    config = {'jax_dump_ir_to': str(streams / f'{name}.programs')} if programs else {}
    what = {'program': f'experiments.{launcher}', 'arguments': flags, 'config': config}
    return {**what, **places, **more}


def _outcomes(statuses, streams):
    text = lambda name, stream: (streams / f'{name}.{stream}').read_text()
    return {k: Outcome(code, text(k, 'out'), text(k, 'err')) for k, code in statuses.items()}
