"""Jobs are done by processes of their own, and what goes wrong there is told here."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import preloaded
import pytest

from cdjax.errors import InputError
from cdjax.parallel.mesh import make_mesh
from cdjax.run import workers
from cdjax.run.options import RunOptions
from cdjax.run.workers import check_workers, work_ahead

# What a job leaves behind: the process, its cores, and the devices that JAX has there.
LEAVE = (
    "import os, pathlib, jax; pathlib.Path({!r}).write_text(f'{{os.getpid()}} '"
    "f'{{len(os.sched_getaffinity(0))}} {{jax.device_count()}}')"
)


def leaves(path):
    return functools.partial(exec, LEAVE.format(str(path)), {})


def test_each_job_has_a_process_and_a_share_of_the_cores(tmp_path, capfd):
    work_ahead({name: leaves(tmp_path / name) for name in 'abc'}, 2)
    pids, cores, devices = zip(*((tmp_path / n).read_text().split() for n in 'abc'), strict=True)
    assert len({*pids, str(os.getpid())}) == 4
    here = len(os.sched_getaffinity(0))
    assert set(map(int, cores)) <= {max(here // 2, 1), -(-here // 2)}
    assert set(devices) == {'1'}
    said = capfd.readouterr().err
    assert ': done, 1 of 3\n' in said
    assert ': done, 3 of 3\n' in said


def test_one_worker_leaves_all_to_whoever_comes(tmp_path):
    work_ahead({'a': leaves(tmp_path / 'a')}, 1)
    assert not (tmp_path / 'a').exists()


def fail(kind):
    if kind == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    raise InputError('batch_size=0: choose another')


@pytest.mark.parametrize(
    ('kind', 'said'),
    [
        ('input', '^batch_size=0: choose another$'),
        ('killed', 'workers=2: the process of a ended with status -9'),
    ],
)
def test_what_goes_wrong_there_is_raised_here_and_ends_the_others(kind, said, monkeypatch):
    if kind != 'killed':  # one starts as users' do
        monkeypatch.setattr(workers, '_CONTEXT', preloaded.CONTEXT)
    began = time.monotonic()
    with pytest.raises(InputError, match=said):
        work_ahead({'a': functools.partial(fail, kind), 'b': functools.partial(time.sleep, 300)}, 2)
    assert time.monotonic() - began < 60


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    """A start that is killed leaves nobody behind who writes where the next one will."""
    script = tmp_path / 'script.py'
    script.write_text(
        'import functools, sys\n'
        'from cdjax.run.workers import work_ahead\n'
        'from tests_of_workers import wait_beside\n'
        "if __name__ == '__main__':\n"
        "    work_ahead({'a': functools.partial(wait_beside, sys.argv[1])}, 2)\n"
    )
    (tmp_path / 'tests_of_workers.py').write_text(
        'import os, time\nfrom pathlib import Path\n\n\n'
        'def wait_beside(path):\n'
        '    Path(path).write_text(str(os.getpid()))\n    time.sleep(300)\n'
    )
    pid = tmp_path / 'pid'
    parent = subprocess.Popen(
        [sys.executable, str(script), str(pid)], env={**os.environ, 'PYTHONPATH': os.getcwd()}
    )
    try:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        child = int(pid.read_text())
        parent.kill()
        parent.wait()
        while alive(child) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not alive(child)
    finally:
        parent.kill()


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_processes_do_not_share_an_accelerator_or_a_mesh():
    check_workers(8, make_mesh(devices=jax.devices()[:1]))
    check_workers(1, make_mesh(devices=jax.devices()[:2]))
    with pytest.raises(InputError, match='workers=8 share out the CPU cores of one machine, and'):
        check_workers(8, make_mesh(devices=jax.devices()[:2]))
    with pytest.raises(InputError, match='workers=0 must be at least 1'):
        RunOptions(workers=0)
