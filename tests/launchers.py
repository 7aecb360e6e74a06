"""Launchers as a user starts them, many times over at the price of importing everything once.

Each runs in a process of its own, forked before JAX has started anything.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Compiled in half the time; what is tested here is not speed.
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'HF_HUB_OFFLINE': '1',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'TOKENIZERS_PARALLELISM': 'false',  # its threads do not survive a fork
}

FORKS = """
import importlib, jax, json, os, pkgutil, runpy, signal, sys
import scipy.optimize, scipy.stats, sklearn.cluster, sklearn.metrics  # lazy in the package
import cdjax, experiments.benchmarks, experiments.flags
from cdjax.studies.inputs import EMBEDDED_TEACHER
from transformers import AutoTokenizer

for package in (cdjax, experiments.benchmarks):
    for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
        importlib.import_module(module.name)
AutoTokenizer.from_pretrained(EMBEDDED_TEACHER)  # imports what it needs when it is first called

commands, folder, at_once, seconds = json.load(sys.stdin), sys.argv[1], *map(int, sys.argv[2:])
children, codes = {}, {}


def wait():
    child, status = os.wait()
    codes[children.pop(child)] = os.waitstatus_to_exitcode(status)


for name, command in commands.items():
    if len(children) == at_once:
        wait()
    child = os.fork()
    if not child:
        for stream, number in (('out', 1), ('err', 2)):
            os.dup2(os.open(f'{folder}/{name}.{stream}', os.O_CREAT | os.O_WRONLY), number)
        signal.alarm(seconds)
        if os.environ.get('DUMP_PROGRAMS'):
            jax.config.update('jax_dump_ir_to', f'{folder}/{name}.programs')
        sys.argv = command
        code = 0
        try:
            runpy.run_module(f'experiments.{command[0]}', run_name='__main__', alter_sys=True)
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    children[child] = name
while children:
    wait()
print(json.dumps(codes))
"""


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
) -> dict[str, Outcome]:
    """Runs `python -m experiments.COMMAND` for each command, by name.

    Args:
        commands: name -> launcher and its flags.
        streams: an empty folder for what they write.
        at_once: how many run at a time.
        seconds: after which one that still runs is killed, by SIGALRM.
        cwd: where they run; `experiments` and `cdjax` are found there.
        programs: keep what each hands to XLA, as text, in the folder `NAME.programs` of `streams`.
    """
    process = subprocess.run(
        [sys.executable, '-c', FORKS, str(streams), str(at_once), str(seconds)],
        cwd=cwd,
        env=os.environ | ENVIRONMENT | ({'DUMP_PROGRAMS': '1'} if programs else {}),
        input=json.dumps(commands),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    codes = json.loads(process.stdout)
    text = lambda name, stream: (streams / f'{name}.{stream}').read_text()
    return {name: Outcome(codes[name], text(name, 'out'), text(name, 'err')) for name in commands}
