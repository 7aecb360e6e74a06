"""How far work has come: a bar on a terminal, a few whole lines in a log file; on stderr."""

import sys
import time
from collections.abc import Mapping

import jax
import tqdm

LOG_SECONDS = 30.0
_DELAY = 1.0  # seconds: shorter work prints nothing

# When the last line of progress was written to a log, on the clock of `time.monotonic`.
_written = [-float('inf')]
# Name of this process, in front of its lines, where it is one of several that write at once.
_one_of_several: list[str] = []


def write_lines(name: str) -> None:
    """Makes whole lines of what this process shows, on a terminal too, with its name in front."""
    _one_of_several[:] = [name]


def progress(
    total: int | None,
    description: str,
    *,
    initial: int = 0,
    unit: str = 'step',
    stage: bool = True,
) -> 'Progress':
    """Returns what shows progress with rate and time left, silent except on process 0.

    Args:
        total: units of work in all, None if unknown.
        description: shown in front.
        initial: units already done (a continued run).
        unit: name of a unit.
        stage: whether this is a stage of a run, whose end is worth a line in a log file.
    """
    silent = jax.process_index() != 0
    if _one_of_several or not sys.stderr.isatty():
        of_whom = [name for name in _one_of_several if name not in description]
        description = ': '.join([*of_whom, description])
        return LogLines(total, description, initial=initial, unit=unit, stage=stage, disable=silent)
    return tqdm.tqdm(
        total=total,
        desc=description,
        initial=initial,
        unit=unit,
        delay=_DELAY,
        mininterval=0.5,
        dynamic_ncols=True,
        file=sys.stderr,
        disable=silent,
    )


class LogLines:
    """Progress in a log file: a line at the end of a stage, and at most one every 30 seconds.

    It has of a tqdm bar what is used here.

    Args:
        total: see `progress`, as the rest.
        description: as there.
        initial: as there.
        unit: as there.
        stage: as there.
        disable: print nothing.
    """

    def __init__(
        self,
        total: int | None,
        description: str,
        *,
        initial: int = 0,
        unit: str = 'step',
        stage: bool = True,
        disable: bool = False,
    ):
        self.n, self.disable = initial, disable
        self._total, self._description, self._unit, self._stage = total, description, unit, stage
        self._initial, self._postfix = initial, {}
        self._began = time.monotonic()
        self._first = None  # when the first unit was done, which compiles, and how many then were

    def update(self, n: int = 1) -> None:
        """Counts units that are done."""
        self.n += n
        now = time.monotonic()
        if self._first is None:
            self._first = now, self.n
        elif now - max(self._began, _written[0]) >= LOG_SECONDS and self.n != self._total:
            self._write(self._running(now), now)

    def set_postfix(self, values: Mapping[str, str], refresh: bool = True) -> None:
        """Sets what is shown behind: name → value."""
        del refresh
        self._postfix = dict(values)

    def __enter__(self) -> 'LogLines':
        return self

    def __exit__(self, failure, *_) -> None:
        now = time.monotonic()
        took = now - self._began
        # What is stopped says so itself, and short work that is no training is not worth a line.
        worth = self._stage and (self._unit == 'step' or took >= _DELAY)
        if failure is None and self.n > self._initial and worth:
            rate = self._rate(now)
            shown = '' if rate is None else f' ({rate:.3g} {self._unit}s/s)'
            self._write(f'{self._count(self.n - self._initial)} in {_seconds(took)}{shown}', now)

    def _running(self, now: float) -> str:
        rate = self._rate(now)
        text = f'{self._unit} {self.n:,}' + (f' of {self._total:,}' if self._total else '')
        if rate is None:
            return text
        if self._total is not None:
            text += f', {_seconds((self._total - self.n) / rate)} left'
        return f'{text}, {rate:.3g} {self._unit}s/s'

    def _rate(self, now: float) -> float | None:
        """Returns units a second without the first, None while there is hardly another.

        Steps are dispatched faster than they are done: the first few tell nothing.
        """
        since, done = self._first
        return (self.n - done) / (now - since) if now - since >= _DELAY else None

    def _count(self, n: int) -> str:
        return f'{n:,} {self._unit}{"" if n == 1 else "s"}'

    def _write(self, text: str, now: float) -> None:
        if self.disable:
            return
        _written[0] = now
        values = ''.join(f', {name} {value}' for name, value in self._postfix.items())
        print(f'{self._description}: {text}{values}', file=sys.stderr, flush=True)


def _seconds(seconds: float) -> str:
    """Returns a time as `12 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f'{seconds:.1f} s' if seconds < 10 else f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60} s'
    return f'{whole // 3600} h {whole % 3600 // 60} min'


Progress = tqdm.tqdm | LogLines
