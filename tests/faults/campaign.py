"""Kills trainings at random moments, and compares what they become with what was never killed.

    python tests/faults/campaign.py --kills=64 --two_process_kills=12 --report=docs/faults.md

A run is started in a fresh workdir, killed (up to five times), started again each time, and
runs to its end. Its last checkpoint must then hold the parameters, moments, step and key of an
uninterrupted run, bit for bit, and its log the same numbers. Half of the kills are aimed inside
saves; one counts as such only if the unfinished checkpoint was there when the process died
(SIGKILL) or was told to stop (SIGTERM).
"""

import collections
import dataclasses
import hashlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'tests'))

from forks import Fork  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_list('jobs', ['discovery', 'distillation'], 'Trainings to kill, see job.py.')
flags.DEFINE_integer('kills', 64, 'Kills of runs of one process, over all jobs.')
flags.DEFINE_integer('two_process_kills', 12, 'Kills of runs of two processes, over all jobs.')
flags.DEFINE_integer('seed', 0, 'Seed of the moments.')
flags.DEFINE_string('folder', None, 'Where runs are kept; a temporary folder if not given.')
flags.DEFINE_string('report', None, 'Markdown file for the table.')

PREEMPTED = 75
KILLS_PER_RUN = 5
GRACE_SECONDS = 5.0  # for the other process, once one was killed
TIMEOUT_SECONDS = 3600.0
TEMPORARY = '*.orbax-checkpoint-tmp*'


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: what was done to whom, and what came of it."""

    job: str
    processes: int
    signal: str
    inside_save: bool
    step: int | None  # the newest checkpoint afterwards
    statuses: tuple[int, ...]


@dataclasses.dataclass
class Result:
    """What a campaign over one job found."""

    kills: list[Kill]
    runs: int = 0
    differing: list[str] = dataclasses.field(default_factory=list)


class Run:
    """The processes of one training in one workdir."""

    def __init__(
        self, workdir: Path, job: str, processes: int, cache: Path, steps: int, *options: str
    ):
        self.workdir, self.job, self.count, self.cache = workdir, job, processes, cache
        self.steps, self.options = steps, options
        self.processes: list[Fork] = []

    def start(self) -> None:
        """Starts the processes, and remembers how the log looked before."""
        self._log_before = self._log_state()
        flags = [
            *(f'--job={self.job}', f'--workdir={self.workdir}', f'--steps={self.steps}'),
            *(f'--compilation_cache={self.cache}', *self.options),
        ]
        if self.count > 1:
            flags += [f'--coordinator=127.0.0.1:{_free_port()}', f'--num_processes={self.count}']
        log = self.workdir.with_suffix('.log')
        self.processes = []
        for i in range(self.count):
            own = [f'--process_id={i}'] if self.count > 1 else []
            self.processes.append(
                Fork(str(ROOT / 'tests/faults/job.py'), [*flags, *own], out=log, err=log)
            )

    def _log_state(self):
        try:
            found = (self.workdir / 'metrics.jsonl').stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        except FileNotFoundError:
            return None

    def training(self) -> bool:
        """Says whether the loop has begun, which rewrites or begins the log."""
        return self._log_state() != self._log_before

    def alive(self) -> bool:
        """Says whether all processes run."""
        return all(p.poll() is None for p in self.processes)

    def saving(self) -> set[str]:
        """Returns the names of unfinished checkpoints."""
        return {p.name for p in (self.workdir / 'checkpoints').glob(TEMPORARY)}

    def wait_for(self, happened) -> bool:
        """Polls until `happened()`; False if a process ended before."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while self.alive():
            if happened():
                return True
            time.sleep(0.002)
            assert time.monotonic() < end, f'{self.workdir} hangs'
        return False

    def finish(self, grace: float = TIMEOUT_SECONDS) -> tuple[int, ...]:
        """Waits for all; what is left after `grace` is killed, as a cluster would do it."""
        end = time.monotonic() + grace
        for process in self.processes:
            try:
                process.wait(max(end - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return tuple(p.returncode for p in self.processes)

    def latest(self) -> int | None:
        """Returns the newest checkpoint's step."""
        names = [p.name for p in (self.workdir / 'checkpoints').glob('*') if p.name.isdigit()]
        return max(map(int, names), default=None)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all arrays of the last checkpoint, read by Orbax alone."""
        import orbax.checkpoint as ocp
        from etils import epath

        folder = epath.Path(self.workdir / 'checkpoints' / str(self.latest())) / 'state'
        handler = ocp.PyTreeCheckpointHandler()
        names = handler.metadata(folder).tree
        restore = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        return handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=restore))

    def log(self) -> list[dict]:
        """Returns the records of metrics.jsonl without those that depend on the clock."""
        records = map(json.loads, (self.workdir / 'metrics.jsonl').read_text().splitlines())
        return [{k: v for k, v in r.items() if not _is_rate(k)} for r in records]

    def outcome(self) -> dict:
        """Returns the last step, hashes of its arrays, and the log."""
        hashes = {
            name: hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
            for name, x in self.arrays().items()
        }
        return {'step': self.latest(), 'arrays': hashes, 'log': self.log()}


def _is_rate(name: str) -> bool:
    return name == 'time' or name.endswith('_per_second') or name == 'mfu'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def kill_once(
    run: Run, name: str, aim_at_save: bool, seconds: float, rng: np.random.Generator
) -> Kill | None:
    """Kills a started run; None if it was over before the moment came."""
    if aim_at_save:
        nth, seen = rng.integers(1, 5), set()

        def nth_save() -> bool:
            seen.update(run.saving())
            return len(seen) >= nth

        if not run.wait_for(nth_save):
            return None
        time.sleep(rng.uniform(0, 0.01))
    elif rng.random() < 0.2:  # while it starts, compiles or reads its checkpoint
        moment = time.monotonic() + rng.uniform(0, seconds)
        if not run.wait_for(lambda: time.monotonic() >= moment):
            return None
    else:
        if not run.wait_for(run.training):
            return None
        moment = time.monotonic() + rng.uniform(0, seconds)
        if not run.wait_for(lambda: time.monotonic() >= moment):
            return None

    # One process of several, or all at once: both happen to clusters.
    everyone = rng.random() < 0.5
    chosen = rng.integers(run.count)
    victims = run.processes if everyone else [run.processes[chosen]]
    inside = bool(run.saving())
    started = run.training()
    for process in victims:
        process.send_signal(getattr(signal, name))
    if name == 'SIGKILL':
        for process in victims:
            process.wait()
        inside = bool(run.saving())
        statuses = run.finish(GRACE_SECONDS)
    else:
        statuses = run.finish(TIMEOUT_SECONDS if started else GRACE_SECONDS)
        if started and any(s not in (0, PREEMPTED, -signal.SIGTERM) for s in statuses):
            raise AssertionError(f'{run.workdir}: SIGTERM ended in status {statuses}')
    if set(statuses) == {0}:
        return None
    return Kill(run.job, run.count, name, inside, run.latest(), statuses)


def campaign(
    job: str, processes: int, kills: int, folder: Path, *, seed: int, steps: int = 120
) -> Result:
    """Kills runs of one job until `kills` are done, and compares each with an unharmed one."""
    rng = np.random.default_rng([seed, processes, *job.encode()])
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder / 'compiled'
    unharmed = Run(folder / 'unharmed', job, processes, cache, steps)
    unharmed.start()
    assert unharmed.wait_for(unharmed.training), f'see {unharmed.workdir}.log'
    began = time.monotonic()
    assert set(unharmed.finish()) == {0}, f'see {unharmed.workdir}.log'
    seconds = time.monotonic() - began
    expected = unharmed.outcome()
    assert expected['step'] == steps

    # Signals and aims in turn; an aim that missed is taken again.
    wanted = collections.Counter(
        [(('SIGKILL', 'SIGTERM')[i % 2], i // 2 % 2 == 0) for i in range(kills)]
    )
    result = Result([])
    while sum(wanted.values()):
        result.runs += 1
        run = Run(folder / f'run{result.runs}', job, processes, cache, steps)
        for _ in range(KILLS_PER_RUN):
            open_aims = list(wanted.elements())
            if not open_aims:
                break
            name, aim_at_save = open_aims[rng.integers(len(open_aims))]
            run.start()
            kill = kill_once(run, name, aim_at_save, seconds, rng)
            if kill is None:
                break
            result.kills.append(kill)
            for aim in ((name, kill.inside_save), (name, aim_at_save)):
                if wanted[aim]:
                    if aim[1] <= kill.inside_save:
                        wanted[aim] -= 1
                    break
            print(f'{kill}  ({sum(wanted.values())} to go)', flush=True)
        statuses = run.finish()
        if set(statuses) != {0}:
            run.start()
            statuses = run.finish()
        if set(statuses) != {0} or run.outcome() != expected:
            result.differing.append(f'{run.workdir} ended with {statuses}')
            print(f'DIFFERS: {result.differing[-1]}', flush=True)
    return result


def table(results: dict[tuple[str, int], Result]) -> str:
    """Returns the Markdown table of a campaign."""
    lines = [
        '| training | processes | SIGKILL in a save | SIGKILL elsewhere | SIGTERM in a save '
        '| SIGTERM elsewhere | runs | ended bit for bit the same |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for (job, processes), result in results.items():
        count = collections.Counter((k.signal, k.inside_save) for k in result.kills)
        cells = [count[s, i] for s in ('SIGKILL', 'SIGTERM') for i in (True, False)]
        same = result.runs - len(result.differing)
        cells += [result.runs, f'{same} of {result.runs}']
        lines.append(f'| {job} | {processes} | ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


def main(_):
    """Runs the campaign over all jobs; status 1 if a run differs."""
    folder = Path(FLAGS.folder or tempfile.mkdtemp(prefix='cdjax-faults-'))
    results = {}
    for processes, kills in ((1, FLAGS.kills), (2, FLAGS.two_process_kills)):
        for i, job in enumerate(FLAGS.jobs):
            share = kills // len(FLAGS.jobs) + (i < kills % len(FLAGS.jobs))
            if share:
                results[job, processes] = campaign(
                    job, processes, share, folder / f'{job}{processes}', seed=FLAGS.seed
                )
                print(table(results), flush=True)
    if FLAGS.report:
        text = Path(FLAGS.report).read_text()
        head, begin, rest = text.partition('<!-- campaign -->\n')
        _, end, tail = rest.partition('<!-- /campaign -->')
        assert begin, f'{FLAGS.report} lacks the marks of the table'
        assert end, f'{FLAGS.report} lacks the marks of the table'
        Path(FLAGS.report).write_text(f'{head}{begin}{table(results)}\n{end}{tail}')
    return int(any(r.differing for r in results.values()))


if __name__ == '__main__':
    app.run(main)
