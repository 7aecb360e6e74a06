"""What a log point tells: means of metrics since the last one, and rates."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

Metrics = Mapping[str, jax.Array]
Point = dict[str, float]


class Window:
    """Sums of the metrics since the last log point; on the devices until somebody asks."""

    def __init__(self, totals: dict[str, Any] | None = None):
        self._count = 0 if totals is None else totals['count']
        self._sums = {} if totals is None else dict(totals['sums'])
        self._waiting = []

    def add(self, metrics: Metrics, steps: int | None) -> None:
        """Takes the scalars of one step, or in arrays `[M]` those of so many steps."""
        self._waiting.append((metrics, steps))

    def totals(self) -> dict[str, Any]:
        """Returns `count` of the steps and `sums` of their metrics, fetched from the devices."""
        found = jax.device_get([metrics for metrics, _ in self._waiting])
        for metrics, (_, steps) in zip(found, self._waiting, strict=True):
            self._count += 1 if steps is None else steps
            for name, values in metrics.items():
                for value in [values] if steps is None else values[:steps]:
                    assert np.ndim(value) == 0, f'metric {name} has shape {np.shape(value)}'
                    self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._waiting = []
        return {'count': self._count, 'sums': self._sums}

    def means(self) -> Point:
        """Returns the means of the metrics."""
        totals = self.totals()
        return {name: total / totals['count'] for name, total in totals['sums'].items()}


class Rate:
    """Steps a second between log points, without compilation, evaluations and saves."""

    def __init__(self, step: int, tokens: int | None, least_seconds: float | None):
        self._step, self._tokens, self._least_seconds = step, tokens, least_seconds
        self._since = None

    @property
    def compiling(self) -> bool:
        """Whether the first step is still to come, or to be over."""
        return self._since is None

    def start(self, step: int, metrics: Metrics) -> None:
        """Starts the clock when the first step, which compiles, is over."""
        if self._since is None:
            jax.block_until_ready(metrics)
            self._step, self._since = step, time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock for what is done within."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - began

    def at(self, step: int) -> Point:
        """Returns the rates from the last call to this, at which `step` has just finished."""
        if self._since is None or step <= self._step:
            return {}
        now = time.perf_counter()
        rate = (step - self._step) / (now - self._since)
        self._step, self._since = step, now
        rates = {'steps_per_second': rate}
        if self._tokens is not None:
            rates['tokens_per_second'] = rate * self._tokens
        if self._least_seconds is not None:
            rates['mfu'] = rate * self._least_seconds
        return rates
