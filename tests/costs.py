"""Where the suite's CPU time goes: `pytest --costs=FILE` writes it, this file as a script tells it.

    python -m pytest -n 2 --dist=loadfile --costs=FILE
    python tests/costs.py FILE
    python tests/costs.py FILE 492b2d0      # of tests that were there at a commit, by name

A line for each phase of a test: CPU seconds of the worker and of all processes that it has started,
those that run on included, and seconds of the stages of compilation in the worker itself.
"""

import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

STAGES = {
    'jaxpr_trace': 'tracing',
    'jaxpr_to_mlir': 'lowering',
    'backend_compile': 'compilation by XLA',
}
TICK = os.sysconf('SC_CLK_TCK') if hasattr(os, 'sysconf') else 100


class Costs:
    """A plugin of pytest that appends to a file what each phase of a test has cost.

    Args:
        file: what is written; workers of one run append to it alike.
    """

    def __init__(self, file: str):
        import jax

        self._file = file
        self._stages = collections.Counter()
        self._last = (0.0, 0.0, {})
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, seconds, **_):
        for part, stage in STAGES.items():
            if part in event:
                self._stages[stage] += seconds

    def pytest_runtest_logreport(self, report):
        """Appends a line; of a run in several workers each writes its own."""
        if hasattr(report, 'node'):  # the controller hears of what its workers have written
            return
        own, others = cpu_seconds(os.getpid())
        was_own, was_others, was = self._last
        line = {
            'test': report.nodeid,
            'own': own - was_own,
            'others': others - was_others,
            **{stage: s - was.get(stage, 0) for stage, s in self._stages.items()},
        }
        self._last = own, others, dict(self._stages)
        with open(self._file, 'a') as out:
            out.write(json.dumps(line) + '\n')


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Returns CPU seconds of a process, and of all that it has started, living or waited for."""
    own, waited = _ticks(pid)
    others = waited
    for child in _children(pid):
        others += sum(cpu_seconds(child))
    return own, others


def _ticks(pid: int) -> tuple[float, float]:
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:  # it has ended in between
        return 0.0, 0.0
    user, system, of_children, system_of_children = map(int, fields[11:15])
    return (user + system) / TICK, (of_children + system_of_children) / TICK


def _children(pid: int) -> list[int]:
    children = []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        with contextlib.suppress(OSError):  # a thread that has ended in between
            children += map(int, task.read_text().split())
    return children


def tests_at(commit: str) -> set[str]:
    """Returns the names of test functions that there were at a commit."""
    lines = subprocess.run(
        ['git', 'grep', '-h', 'def test_', commit, '--', 'tests'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(re.findall(r'def (test_\w+)', lines))


def main(file: str, commit: str | None = None) -> None:
    """Prints the sums of a file, and the most expensive files of tests."""
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    name = lambda line: re.search(r'::(test_\w+)', line['test'])[1]
    if commit is not None:
        known = tests_at(commit)
        lines = [line for line in lines if name(line) in known]
    total, by_file = collections.Counter(), collections.Counter()
    for line in lines:
        cost = {k: v for k, v in line.items() if k != 'test'}
        total.update(cost)
        by_file[line['test'].split('::')[0]] += cost['own'] + cost['others']
    whole = total['own'] + total['others']
    functions = len({(line['test'].split('::')[0], name(line)) for line in lines})
    print(f'{whole / 60:.1f} CPU minutes of {functions:,} test functions')
    rest = total['own'] - sum(total[stage] for stage in STAGES.values())
    parts = {
        **{f'{stage}, in the workers': total[stage] for stage in STAGES.values()},
        'what else the workers do': rest,
        'programs that tests start': total['others'],
    }
    for part, seconds in parts.items():
        print(f'{seconds / 60:6.1f}  {seconds / whole:4.0%}  {part}')
    print('of these')
    for path, seconds in by_file.most_common(15):
        print(f'{seconds / 60:6.1f}  {seconds / whole:4.0%}  {path}')


if __name__ == '__main__':
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as of `... | head`
    main(*sys.argv[1:])
