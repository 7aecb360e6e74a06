"""Two starts of one workdir: the second is told who is there, and a crash holds nobody up."""

import json
import os
import signal
import socket
import time

import pytest
from etils import epath
from fake_bucket import fake_bucket
from preloaded import Holder

from cdjax.errors import InputError
from cdjax.run import lock
from cdjax.run.folder import open_workdir


@pytest.fixture
def start():
    """Starts processes that open a workdir and wait until they are told to end."""
    holders = []

    def begin(workdir, *, ignores_sigint=False):
        holders.append(Holder(workdir, ignores_sigint=ignores_sigint))
        return holders[-1]

    yield begin
    for holder in holders:
        holder.process.kill()
        holder.process.join()


def attempt(workdir):
    return open_workdir(workdir, {'steps': 1}, name='discover')


def who(holder):
    pid, host = holder.process.pid, socket.gethostname()
    return rf'in use by process {pid} on {host} \(since \d{{4}}-.*\): wait for it or stop'


def test_the_second_start_is_told_who_holds_the_folder(start, tmp_path):
    first = start(tmp_path / 'run')
    before = (tmp_path / 'run' / 'config.json').stat()
    with pytest.raises(InputError, match=who(first)) as error:
        attempt(tmp_path / 'run')
    assert f'--workdir={tmp_path}/run' in str(error.value)
    assert (tmp_path / 'run' / 'config.json').stat() == before
    attempt(tmp_path / 'another')


@pytest.mark.parametrize('end', ['crash', 'finish'])
def test_the_end_of_a_process_lets_go_of_the_folder(start, tmp_path, end):
    first = start(tmp_path / 'run')
    if end == 'crash':
        first.process.kill()
        first.process.join()
    else:
        first.finish()
        assert first.process.exitcode == 0
    attempt(tmp_path / 'run')
    attempt(tmp_path / 'run')  # its own
    assert json.loads((tmp_path / 'run' / '.lock').read_text())['pid'] == os.getpid()


def test_a_disk_without_locks_has_a_lease(start, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(lock.errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(lock.fcntl, 'flock', no_locks)
    monkeypatch.setattr(lock, 'LEASE_SECONDS', 1.0)
    attempt(tmp_path / 'run')
    assert json.loads((tmp_path / 'run' / '.lock').read_text())['id']
    lock.let_go()
    assert not (tmp_path / 'run' / '.lock').exists()


@pytest.fixture(scope='module')
def bucket():
    with fake_bucket() as address:
        yield address


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(lock, 'REFRESH_SECONDS', 0.2)
    monkeypatch.setattr(lock, 'LEASE_SECONDS', 4.0)


def test_a_lease_in_a_bucket(bucket, start, soon, caplog):
    workdir = f'{bucket}/leases/run'
    first = start(workdir)
    with pytest.raises(InputError, match=who(first)):
        attempt(workdir)
    # Unlike a lock it outlives a crash, and is found to have stopped changing.
    first.process.kill()
    first.process.join()
    began = time.monotonic()
    attempt(workdir)
    assert 3 < time.monotonic() - began < 20
    assert f'was left by process {first.process.pid} on' in caplog.text
    assert json.loads((epath.Path(workdir) / '.lock').read_text())['pid'] == os.getpid()
    lock.let_go()
    assert not (epath.Path(workdir) / '.lock').exists()


def test_an_old_lease_is_not_waited_for_and_an_ended_run_leaves_none(bucket, start, monkeypatch):
    workdir = epath.Path(f'{bucket}/leases/old')
    first = start(workdir)
    first.finish()
    assert not (workdir / '.lock').exists()
    facts = {'host': 'tpu-0', 'pid': 7, 'since': 'yesterday', 'id': 'x', 'refreshed': 0}
    (workdir / '.lock').write_text(json.dumps(facts))
    monkeypatch.setattr(lock.time, 'sleep', lambda _: pytest.fail('it waited'))
    attempt(workdir)
    lock.let_go()


TAKEN = {'host': 'tpu-1', 'pid': 8, 'since': 'now', 'id': 'other', 'refreshed': 0}


def take_over(workdir, ended=lambda: False):
    for _ in range(50):  # a refresh may just be under way, and write over it
        (workdir / '.lock').write_text(json.dumps(TAKEN))
        time.sleep(0.5)
        if ended():
            return


def test_a_process_whose_lease_was_taken_over_stops(bucket, soon):
    workdir = epath.Path(f'{bucket}/leases/lost')
    attempt(workdir)
    # Whoever runs the tests in the background of a script ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        take_over(workdir)
    signal.signal(signal.SIGINT, before)
    lock.let_go()
    assert json.loads((workdir / '.lock').read_text()) == TAKEN, 'it is not ours to remove'


def test_a_process_in_the_background_stops_too_when_its_lease_is_taken_over(bucket, start):
    workdir = epath.Path(f'{bucket}/leases/ignored')
    process = start(workdir, ignores_sigint=True).process
    take_over(workdir, lambda: process.exitcode is not None)
    assert process.exitcode == -signal.SIGKILL
    assert json.loads((workdir / '.lock').read_text()) == TAKEN
