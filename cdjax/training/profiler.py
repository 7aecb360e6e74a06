"""A profiler trace of some steps of a training."""

import contextlib
from typing import Any

import jax
from etils import epath

from cdjax.run.buckets import outgoing_folder


class Profiler:
    """Writes a profiler trace of the steps asked for; a context manager."""

    def __init__(self, workdir: epath.Path | None, steps: tuple[int, int] | None):
        assert steps is None or workdir is not None, 'a trace needs a workdir'
        self._workdir, self._steps = workdir, steps
        self._trace = contextlib.ExitStack()

    def before(self, step: int) -> None:
        """Begins the trace in front of its first step."""
        if self._steps is not None and step == self._steps[0]:
            folder = self._trace.enter_context(outgoing_folder(self._workdir / 'profile'))
            jax.profiler.start_trace(str(folder))
            self._trace.callback(jax.profiler.stop_trace)

    def after(self, done: int, metrics: Any) -> None:
        """Ends the trace behind its last step, once that step's `metrics` are there."""
        if self._steps is not None and done == self._steps[1]:
            jax.block_until_ready(metrics)
            self._trace.close()

    def __enter__(self) -> 'Profiler':
        return self

    def __exit__(self, *_) -> None:
        self._trace.close()
