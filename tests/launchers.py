"""Launchers as a user starts them, many of them."""

from pathlib import Path
from typing import NamedTuple

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
    running, ended = {}, {}

    def wait():
        wait_for_one([*running.values()])
        for name in [name for name, fork in running.items() if fork.poll() is not None]:
            ended[name] = running.pop(name).returncode

    for name, (launcher, *flags) in commands.items():
        if len(running) == at_once:
            wait()
        config = {'jax_dump_ir_to': str(streams / f'{name}.programs')} if programs else {}
        running[name] = Fork(
            f'experiments.{launcher}',
            flags,
            out=streams / f'{name}.out',
            err=streams / f'{name}.err',
            **{'cwd': cwd, 'path': path, 'config': config, 'seconds': seconds},
        )
    while running:
        wait()
    text = lambda name, stream: (streams / f'{name}.{stream}').read_text()
    return {name: Outcome(ended[name], text(name, 'out'), text(name, 'err')) for name in commands}
