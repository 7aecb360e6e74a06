"""Python programs as processes of their own, at the price of importing everything once.

Each is forked from one process, this file run as a script, that has imported what they import and
in which JAX has started nothing. To what it runs and to signals a fork is a new process. Many
launchers in turn share a fork, at the price of compiling what they have in common once.
"""

import atexit
import contextlib
import copy
import functools
import gc
import importlib
import importlib.metadata
import itertools
import json
import os
import pkgutil
import runpy
import select
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'HF_HUB_OFFLINE': '1',
    # Compiled in half the time; what is tested here is not speed.
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'TOKENIZERS_PARALLELISM': 'false',  # its threads do not survive a fork
}

# What the package imports when it is first needed.
LAZY = (
    *('orbax.checkpoint', 'scipy.optimize', 'scipy.stats', 'sklearn.cluster', 'sklearn.metrics'),
    *('tensorboardX', 'torch'),
)


class Fork:
    """A program that runs, with what tests use of `subprocess.Popen`.

    Args:
        program: a module's name, or the path of a `.py` file; it runs as `__main__`.
        arguments: those of its command line.
        out: file that what it prints is appended to.
        err: likewise for what it says on stderr.
        cwd: where it runs.
        path: folders where it looks for modules, as PYTHONPATH would say it.
        config: values of JAX's configuration, as variables of the environment would say them.
        seconds: after which it is killed, by SIGALRM; never if 0.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        out: Path,
        err: Path,
        cwd: Path = ROOT,
        path: Sequence[Path] = (),
        config: Mapping[str, Any] | None = None,
        seconds: int = 0,
    ):
        self.returncode = None
        places = {'out': out, 'err': err, 'cwd': cwd, 'path': [*path]}
        what = {'program': program, 'arguments': [*arguments], 'config': dict(config or {})}
        self.pid = _ask('start', **what, **places, seconds=seconds)
        self._end = os.pidfd_open(self.pid)  # can be read when it is over

    def poll(self) -> int | None:
        """Returns the exit status, None while it runs."""
        if self.returncode is None and self._over(0):
            (self.returncode,) = _ask('ended', pids=[self.pid])
            os.close(self._end)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status when it is over."""
        if self.returncode is None and not self._over(timeout):
            raise subprocess.TimeoutExpired('fork', timeout)
        return self.poll()

    def _over(self, timeout):
        return bool(select.select([self._end], [], [], timeout)[0])

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it is over."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)


def run_in_turn(programs: Sequence[Mapping[str, Any]], ended: Path) -> list[int]:
    """Runs launchers one after another in one process, where each finds what others have compiled.

    What a launcher changes of its process is put back behind it. One that ends the process, or is
    killed, ends it for itself alone: those behind it run in another.

    Args:
        programs: of each, the arguments of a `Fork`.
        ended: an empty folder, which gets a file for each that ends by itself.

    Returns:
        Their exit statuses.
    """
    statuses = []
    while len(statuses) < len(programs):
        first = len(statuses)
        files = [ended / f'{i}' for i in range(first, len(programs))]
        left = [{**p, 'ended': file} for p, file in zip(programs[first:], files, strict=True)]
        pid = _ask('start_in_turn', programs=left)
        (status,) = _ask('ended', pids=[pid])
        statuses += [int(file.read_text()) for file in itertools.takewhile(Path.exists, files)]
        if len(statuses) < len(programs):
            statuses.append(status)
    return statuses


def wait_for_one(forks: Sequence[Fork]) -> None:
    """Returns when at least one of several is over."""
    _ask('ended', pids=[fork.pid for fork in forks])


@functools.cache
def _source() -> subprocess.Popen:
    """Starts the process that forks, one for all tests of this process."""
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    process = subprocess.Popen(
        [sys.executable, __file__], cwd=ROOT, env=os.environ | ENVIRONMENT, **pipes
    )
    atexit.register(process.communicate)  # at the end of its input it ends
    return process


def _ask(what, **details):
    process = _source()
    print(json.dumps({'what': what, **details}, default=str), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


# -- The process that forks -----------------------------------------------------------------------


def _import_everything():
    for name in LAZY:
        importlib.import_module(name)
    from transformers import AutoTokenizer

    import cdjax
    import experiments.announce
    import experiments.benchmarks
    import experiments.flags
    import experiments.launch
    from cdjax.studies.inputs import EMBEDDED_TEACHER

    for package in (cdjax, experiments.benchmarks):
        for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
            importlib.import_module(module.name)
    AutoTokenizer.from_pretrained(EMBEDDED_TEACHER)  # imports what it needs when first called
    # JAX looks through all that is installed for its plugins, in each process anew.
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
    importlib.metadata.entry_points(group='jax_plugins')


@contextlib.contextmanager
def _as_it_was():
    """Puts back what a launcher changes of its process: flags, configuration, what listens."""
    import jax
    from absl import flags

    from experiments.flags.groups import GROUPS

    groups = copy.deepcopy(GROUPS)
    defined = copy.deepcopy(vars(flags.FLAGS))
    config = dict(jax.config.values)
    hooks = warnings.showwarning, sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    arguments, path = sys.argv, [*sys.path]
    try:
        yield
    finally:
        vars(flags.FLAGS).update(defined)
        GROUPS.clear()
        GROUPS.update(groups)
        for name, value in config.items():
            if jax.config.values[name] != value:
                jax.config.update(name, value)
        warnings.showwarning, sys.unraisablehook, on_terminate = hooks
        signal.signal(signal.SIGTERM, on_terminate)
        sys.argv, sys.path[:] = arguments, path
        sys.stdout.flush()
        sys.stderr.flush()


def _run_in_turn(programs):
    """Becomes one program after another, and writes of each how it has ended."""
    for details in programs:
        ended = details.pop('ended')
        with _as_it_was():
            status = _run(**details)
        Path(ended).write_text(str(status))
    return 0


def _run(program, arguments, out, err, cwd=ROOT, path=(), config=None, seconds=0):
    """Becomes a program, and returns its exit status."""
    import jax

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    signal.alarm(seconds)
    os.chdir(cwd)
    sys.path[:0] = path
    for name, value in (config or {}).items():
        jax.config.update(name, value)
    sys.argv = [program, *arguments]
    try:
        if program.endswith('.py'):
            runpy.run_path(program, run_name='__main__')
        else:
            runpy.run_module(program, run_name='__main__', alter_sys=True)
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def main():
    """Forks, and says how forks have ended, as it is asked to on stdin."""
    import jax

    sys.path[0] = ''
    _import_everything()
    gc.freeze()  # or the collections of a fork would copy all of it
    gc.set_threshold(50_000, 20, 20)  # as in conftest.py
    # At the end JAX looks for garbage four times over, which takes as long as all else of a fork.
    atexit._clear()
    atexit.register(jax.distributed.shutdown)  # processes of one run take leave of each other
    statuses = {}

    def start(run=_run, **details):
        child = os.fork()
        if not child:
            status = run(**details)
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        return child

    def ended(pids):
        """Waits for the end of at least one."""
        while not statuses.keys() & {*pids}:
            child, status = os.waitpid(-1, 0)
            statuses[child] = os.waitstatus_to_exitcode(status)
        return [statuses.get(pid) for pid in pids]

    start_in_turn = functools.partial(start, _run_in_turn)
    does_what = {'start': start, 'start_in_turn': start_in_turn, 'ended': ended}
    for line in sys.stdin:
        asked = json.loads(line)
        does = does_what[asked.pop('what')]
        print(json.dumps(does(**asked)), flush=True)
    os._exit(0)


if __name__ == '__main__':
    main()
