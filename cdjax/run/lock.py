"""One run in a folder at a time: whoever comes second is told who is there.

On a disk the operating system keeps the lock, and lets go of it when the process ends, however it
ends. A store knows no locks, so there the run leaves a lease, an object that it writes anew every
few seconds: one that has stopped changing belongs to a run that died.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time
import uuid

from absl import logging
from etils import epath

from cdjax.errors import InputError
from cdjax.run.buckets import is_remote

LOCK = '.lock'
REFRESH_SECONDS = 15.0
LEASE_SECONDS = 60.0

# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_held: dict[str, object] = {}


def hold(workdir: epath.Path) -> None:
    """Takes a folder for as long as this process lives; it may do so again.

    Where a lease was left, it is watched for up to `LEASE_SECONDS` to see whether it still changes.

    Args:
        workdir: an existing folder, local or in a bucket.

    Raises:
        InputError: another process has it; host, process and time are named.
        OSError: the folder cannot be written.
    """
    if str(workdir) in _held:
        return
    lock = None if is_remote(workdir) else _lock(workdir)
    _held[str(workdir)] = _Lease(workdir) if lock is None else lock


def let_go() -> None:
    """Ends the leases of this process, so that the next start need not watch them.

    To be called before Python ends: a client of a store cannot be used any more while it does.
    """
    for lock in list(_held.values()):
        if isinstance(lock, _Lease):
            lock.end()
            _held.pop(str(lock.workdir))


def _lock(workdir: epath.Path) -> int | None:
    """Locks a file on a disk and returns its descriptor; None where the disk knows no locks."""
    file = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        content = os.read(file, 4096)
        os.close(file)
        if isinstance(error, BlockingIOError):
            raise _in_use(workdir, content) from None
        if error.errno in _NO_LOCKS:
            return None
        raise
    os.ftruncate(file, 0)
    os.write(file, json.dumps(_myself()).encode())
    return file


class _Lease:
    """A lease of this process on a folder, refreshed by a thread."""

    def __init__(self, workdir: epath.Path):
        self.workdir, self._file = workdir, workdir / LOCK
        self._facts = _myself() | {'id': uuid.uuid4().hex}
        self._await_the_end_of_another()
        self._write()
        if not self._is_ours():  # two came at the same moment, and the other wrote last
            raise _in_use(workdir, self._read())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name='lease', daemon=True)
        self._thread.start()

    def _await_the_end_of_another(self) -> None:
        """Returns when there is no lease, or one that has not changed for `LEASE_SECONDS`."""
        seen = self._read()
        # By the clocks of two hosts, which may differ by a little but not by so much.
        if seen is None or time.time() - _parsed(seen).get('refreshed', 0) > 10 * LEASE_SECONDS:
            return
        logging.warning(
            '%s was left by %s, or is still in use: watching it for %.0f seconds',
            *(self.workdir, _describe(seen), LEASE_SECONDS),
        )
        deadline = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(LEASE_SECONDS / 20)
            now = self._read()
            if now is None:
                return
            if now != seen:
                raise _in_use(self.workdir, now)

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            try:
                if self._is_ours():
                    self._write()
                    continue
            except Exception as error:  # a store that is away for a while is no reason to stop
                logging.warning('the lease on %s could not be refreshed: %s', self.workdir, error)
                continue
            logging.error(
                '%s was taken over by %s, for this process had not refreshed its lease; stopping',
                *(self.workdir, _describe(self._read())),
            )
            # A job that a script has put into the background ignores SIGINT, and is killed.
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            # And again, where a library swallows it.
            os.kill(os.getpid(), signal.SIGKILL if ignored else signal.SIGINT)

    def end(self) -> None:
        """Removes the lease, unless another process has taken it over."""
        self._ended.set()
        self._thread.join()
        try:
            if self._is_ours():
                self._file.unlink(missing_ok=True)
        except Exception as error:  # the work is done, and the lease ends by itself
            logging.warning('the lease on %s could not be removed: %s', self.workdir, error)

    def _write(self) -> None:
        self._file.write_text(json.dumps(self._facts | {'refreshed': time.time()}))

    def _is_ours(self) -> bool:
        return _parsed(self._read()).get('id') == self._facts['id']

    def _read(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except FileNotFoundError:
            return None


def _myself() -> dict[str, object]:
    since = time.strftime('%Y-%m-%d %H:%M:%S %Z')
    return {'host': socket.gethostname(), 'pid': os.getpid(), 'since': since}


def _parsed(content: bytes | None) -> dict:
    try:
        facts = json.loads(content or b'{}')
        return facts if isinstance(facts, dict) else {}
    except ValueError:  # read while it was written
        return {}


def _describe(content: bytes | None) -> str:
    facts = _parsed(content)
    if not facts.keys() >= {'host', 'pid', 'since'}:
        return 'another process'
    return f'process {facts["pid"]} on {facts["host"]} (since {facts["since"]})'


def _in_use(workdir: epath.Path, content: bytes | None) -> InputError:
    return InputError(
        f'--workdir={workdir} is in use by {_describe(content)}: wait for it or stop it, or name '
        'another --workdir'
    )
