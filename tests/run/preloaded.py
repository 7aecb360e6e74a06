"""Processes that are forked from one which has imported what tests of runs need, at their price.

JAX has started nothing there. `CONTEXT` is one of multiprocessing, whose processes have the
environment of the first that was started: what has changed since is handed over.
"""

import multiprocessing
import os
import signal

from cdjax.run import lock
from cdjax.run.folder import open_workdir

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['cdjax.run.folder', 'cdjax.run.workers', 'gcsfs'])


class Holder:
    """A process that opens a workdir, and keeps it until it is told to end."""

    def __init__(self, workdir, *, ignores_sigint: bool):
        self._pipe, theirs = CONTEXT.Pipe()
        arguments = dict(os.environ), theirs, str(workdir), ignores_sigint
        self.process = CONTEXT.Process(target=_hold, args=arguments)
        self.process.start()
        theirs.close()
        assert self._pipe.recv() == 'held'

    def finish(self):
        self._pipe.send('end')
        self.process.join()


def _hold(environment, pipe, workdir, ignores_sigint):
    os.environ.update(environment)
    if ignores_sigint:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock.REFRESH_SECONDS, lock.LEASE_SECONDS = 0.2, 4.0
    open_workdir(workdir, {'steps': 1}, name='discover')
    pipe.send('held')
    pipe.recv()
    lock.let_go()
