"""Parts of a run that know nothing of each other, at once, each in a process with cores of its own.

A training of a small model keeps one core busy and hardly more, so that a machine of many is best
shared out. What a part finds it leaves on disk, where the run that asked for it then reads it.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from multiprocessing import connection
from typing import Any

import jax
from jax.sharding import Mesh

from cdjax.errors import InputError
from cdjax.parallel.preemption import Preempted
from cdjax.run import progress

# Of JAX, which a process sets for itself: the others are to compile as it does.
_SETTINGS = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
    'jax_enable_x64',
)
_CONTEXT = multiprocessing.get_context('spawn')  # JAX has threads, which a fork would not copy


def check_workers(workers: int, mesh: Mesh) -> None:
    """Raises InputError where several processes would fight for what they compute on."""
    device = mesh.devices.flat[0]
    if workers > 1 and (device.platform != 'cpu' or mesh.size > 1 or jax.process_count() > 1):
        raise InputError(
            f'workers={workers} share out the CPU cores of one machine, and this run has '
            f'{mesh.size} x {device.device_kind}: leave it out'
        )


def work_ahead(jobs: Mapping[str, Callable[[], Any]], workers: int) -> None:
    """Does what would be done one after the other; does nothing where there is one worker.

    A script that calls this has to keep what it runs under `if __name__ == '__main__'`, for every
    process imports it. If one job fails the others are asked to save what they have, and to stop.

    Args:
        jobs: name → what is done, in the order in which they begin. They are pickled, so
            functions of modules or partials of such; what they return is lost.
        workers: how many are done at a time, each by a process of its own with its share of the
            cores that this one may use.

    Raises:
        InputError: a process was killed.
        Exception: what a job has raised.
    """
    if workers == 1:
        return
    waiting, running, free = list(jobs.items()), {}, list(range(workers))
    try:
        while waiting or running:
            while waiting and free:
                worker = _Worker(*waiting.pop(0), free.pop(0), workers)
                running[worker.process.sentinel] = worker
            for sentinel in connection.wait(list(running)):
                worker = running.pop(sentinel)
                free.append(worker.slot)
                worker.finish()
                done = len(jobs) - len(waiting) - len(running)
                print(f'{worker.name}: done, {done} of {len(jobs)}', file=sys.stderr, flush=True)
    finally:
        for worker in running.values():
            worker.process.terminate()
        for worker in running.values():
            worker.process.join()


class _Worker:
    """A process that does one job.

    Args:
        name: of the job.
        job: the job.
        slot: which share of the cores is its own.
        workers: into how many shares they go.
    """

    def __init__(self, name: str, job: Callable[[], Any], slot: int, workers: int):
        self.name, self.slot, self._workers = name, slot, workers
        self._receiver, sender = _CONTEXT.Pipe(duplex=False)
        settings = {key: getattr(jax.config, key) for key in _SETTINGS}
        self.process = _CONTEXT.Process(
            target=_work,
            # The job is unpickled when the process has its cores: it may ask JAX for its devices.
            args=(sender, name, _cores(slot, workers), settings, pickle.dumps(job)),
            name=name,
        )
        self.process.start()
        sender.close()

    def finish(self) -> None:
        """Waits for the end; raises what the job has raised, or that the process was killed."""
        error = None
        if self._receiver.poll():
            try:
                error = self._receiver.recv()
            except EOFError:
                pass
        self.process.join()
        if error is not None:
            raise error
        if self.process.exitcode:
            raise InputError(
                f'workers={self._workers}: the process of {self.name} ended with status '
                f'{self.process.exitcode}, which for want of memory is -9; fewer workers need '
                'less, and the same command continues'
            )


def _cores(slot: int, workers: int) -> list[int] | None:
    """Returns the cores of a share; None where the system does not bind processes to cores."""
    if not hasattr(os, 'sched_getaffinity'):
        return None
    cores = sorted(os.sched_getaffinity(0))
    # Every so many: two threads of one core are often numbered half of all apart.
    return cores[slot::workers] or [cores[slot % len(cores)]]


def _work(
    sender: connection.Connection,
    name: str,
    cores: list[int] | None,
    settings: dict[str, Any],
    job: bytes,
) -> None:
    """Does a job in the process that is made for it, and sends what it raises."""
    if cores is not None:
        os.sched_setaffinity(0, cores)
    # From the keyboard all processes are interrupted; the first one passes it on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for key, value in settings.items():
        jax.config.update(key, value)
    progress.write_lines(name)
    warnings.showwarning = lambda message, *_: print(f'warning: {name}: {message}', file=sys.stderr)
    try:
        pickle.loads(job)()
    except Exception as error:
        if not isinstance(error, InputError | Preempted):
            traceback.print_exc()
        sender.send(_sendable(error))


def _end_with_parent() -> None:
    """Stops this process when the one that started it is gone: another start takes its folder."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def _sendable(error: Exception) -> Exception:
    """Returns an exception that survives its way to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f'{type(error).__name__}: {error}')
    return error
