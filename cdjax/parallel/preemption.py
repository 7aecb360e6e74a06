"""Being told to stop: SIGTERM, on one host or on any host of a job."""

import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

# The preemption service agrees on a moment by a counter that has to grow over all that a process
# does, not by the step of one training loop, which starts again in the next.
_moments = itertools.count(1)

# Loops that listen themselves, and save before they stop.
_listening: list['PreemptionNotice'] = []

# Set by the signal handler of a launcher, which raises as well: wherever the program is at that
# moment, and Python ignores what is raised where an object is being deleted.
STOP = threading.Event()


class Preempted(Exception):
    """A SIGTERM stopped the run, everything is saved: the same command continues it.

    Launchers exit with status 75 (EX_TEMPFAIL of sysexits.h: try again).
    """


BETWEEN_TRAININGS = 'SIGTERM came while nothing trained, and what was finished is kept'


def heed_preemption() -> None:
    """Stops here if one of several processes has had a SIGTERM; to be called on all of them.

    For what lies between trainings: stages, and the batches of a pass over a data set. Inside a
    training it does nothing, for the loop saves first. A process that is alone is stopped by the
    signal handler of its launcher, wherever it is, or here, if that was ignored.

    Raises:
        Preempted: what was finished is kept.
    """
    if not _listening and (STOP.is_set() or _reached()):
        raise Preempted(BETWEEN_TRAININGS)


def _reached() -> bool:
    """Says, on all processes at once, whether one of them has had a SIGTERM."""
    return jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(
        next(_moments)
    )


class PreemptionNotice:
    """Listens for SIGTERM while a training loop runs; a context manager.

    With `jax.distributed`, its preemption service listens on every host, and `reached` becomes
    true at the same step on all of them. Without, a signal handler is installed (in the main
    thread, where Python allows one) and the one before it is put back at the end.
    """

    def __enter__(self) -> 'PreemptionNotice':
        self._signalled = False
        self._installed = False
        alone = not jax.distributed.is_initialized()
        if alone and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
            self._installed = True
        _listening.append(self)
        return self

    def __exit__(self, *_) -> None:
        _listening.remove(self)
        if self._installed:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_) -> None:
        self._signalled = True

    def reached(self) -> bool:
        """Says whether to save and stop now; to be called after every step, on all processes."""
        return self._signalled or STOP.is_set() or _reached()

    def signalled(self) -> bool:
        """Says whether this process has had a SIGTERM that its own handler took."""
        return self._signalled
