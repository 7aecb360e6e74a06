"""Numbers of a run: metrics.jsonl and TensorBoard.

`metrics.jsonl` holds one JSON object a line: `step`, `time` (Unix seconds), and the metrics.
A run that continues from step n keeps the lines up to n and drops what came later, so that the
file reads as if the run had never stopped.
"""

import contextlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping

import jax
from etils import epath

from cdjax.run.buckets import is_remote
from cdjax.run.folder import write_atomically

METRICS = 'metrics.jsonl'
_UPLOAD_SECONDS = 60.0


class MetricsWriter:
    """Appends scalars to metrics.jsonl and to TensorBoard events; only process 0 writes.

    An object store cannot append: the files of a `gs://` workdir are written to a local folder,
    and copied whole at most once a minute, at `flush` and at `close`.
    """

    def __init__(self, workdir: epath.PathLike):
        """Opens the writer; call `resume_at` before the first `write` of a continued run.

        Args:
            workdir: an existing folder.
        """
        self._active = jax.process_index() == 0
        self._events = None
        self._lines = None
        if not self._active:
            return
        self._workdir = epath.Path(workdir)
        self._spool = None
        self._folder = self._workdir
        if is_remote(workdir):
            self._spool = tempfile.mkdtemp(prefix='cdjax-metrics-')
            self._folder = epath.Path(self._spool)
            if (self._workdir / METRICS).exists():
                (self._folder / METRICS).write_text((self._workdir / METRICS).read_text())
        self._uploaded_at = time.monotonic()
        self._purge_step = None

    def resume_at(self, step: int) -> None:
        """Drops what was logged after `step`, and a last line that a kill cut short."""
        if not self._active:
            return
        assert self._lines is None, 'resume_at comes before the first write'
        self._purge_step = step + 1
        path = self._folder / METRICS
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _is_until(line, step)]
            write_atomically(path, ''.join(f'{line}\n' for line in kept))

    def write(self, step: int, scalars: Mapping[str, float], prefix: str = '') -> None:
        """Writes the scalars of one step.

        Args:
            step: the number of steps done.
            scalars: name → number; what is not finite is written as null.
            prefix: put in front of each name.
        """
        if not self._active:
            return
        if self._lines is None:
            self._open()
        values = {f'{prefix}{name}': float(value) for name, value in scalars.items()}
        record = {'step': int(step), 'time': round(time.time(), 3)}
        record |= {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._lines.write(json.dumps(record) + '\n')
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if self._spool and time.monotonic() - self._uploaded_at > _UPLOAD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Makes everything written so far visible in the workdir."""
        if self._lines is None:
            return
        self._events.flush()
        self._upload()

    def _upload(self) -> None:
        if self._spool:
            self._uploaded_at = time.monotonic()
            for file in self._folder.iterdir():
                (self._workdir / file.name).write_bytes(file.read_bytes())

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._lines is not None:
            self._lines.close()
            self._events.close()  # waits for events that a thread has yet to write; flush does not
            self._upload()
            self._lines = None
        if self._active and self._spool:
            shutil.rmtree(self._spool, ignore_errors=True)

    def __enter__(self) -> 'MetricsWriter':
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _open(self) -> None:
        path = self._folder / METRICS
        written = path.read_bytes() if path.exists() else b''
        self._lines = open(path, 'a', encoding='utf-8')
        if written and not written.endswith(b'\n'):
            self._lines.write('\n')  # a kill left half a line: do not continue it
        with _without('torch'):  # which takes seconds, and which scalars have no use for
            import tensorboardX  # slow enough without: not before it is needed

        self._events = tensorboardX.SummaryWriter(
            str(self._folder), purge_step=self._purge_step, flush_secs=10
        )


@contextlib.contextmanager
def _without(package: str):
    """Hides a package that another one imports where it is installed, unless it is loaded."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]


def read_metrics(workdir: epath.PathLike) -> list[dict]:
    """Returns the records of metrics.jsonl in order; lines cut short by a kill are left out."""
    path = epath.Path(workdir) / METRICS
    if not path.exists():
        return []
    records = (_parse(line) for line in path.read_text().splitlines())
    return [record for record in records if record is not None]


def _parse(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and 'step' in record else None


def _is_until(line: str, step: int) -> bool:
    record = _parse(line)
    return record is not None and record['step'] <= step
