"""What a training tells of itself: log points on disk and on the bar, and what went wrong."""

import math
from typing import TYPE_CHECKING

import jax
from absl import logging
from etils import epath

from cdjax.errors import InputError
from cdjax.run.folder import write_atomically
from cdjax.run.metrics import MetricsWriter
from cdjax.run.progress import Progress
from cdjax.training.gradient_reports import GradientError, GradientReport
from cdjax.training.log_points import Point, Rate, Window

if TYPE_CHECKING:
    from cdjax.run.checkpoints import Checkpoints

DIAGNOSTICS = 'diagnostics/'


class Diverged(InputError):
    """A metric of a step is NaN or infinite; the checkpoints from before it are kept."""


class Journal:
    """The log of one training.

    Args:
        description: what is trained.
        history: its log points so far, oldest first; it grows.
        bar: the progress bar.
        rate: of its steps.
        workdir: its folder; None where nothing is kept.
        writer: of its metrics, likewise.
        checkpoints: likewise.
    """

    def __init__(
        self,
        description: str,
        history: list[Point],
        bar: Progress,
        rate: Rate,
        workdir: epath.Path | None,
        writer: MetricsWriter | None,
        checkpoints: 'Checkpoints | None',
    ):
        self.history = history
        self._description, self._bar, self._rate = description, bar, rate
        self._workdir, self._writer, self._checkpoints = workdir, writer, checkpoints

    def log(self, at: int, means: Point) -> None:
        """Adds to the log point of a step, and shows some of it."""
        point = {'step': at, **means}
        if self.history and self.history[-1]['step'] == at:
            self.history[-1] |= point
        else:
            self.history.append(point)
        if self._writer is not None:
            self._writer.write(at, {k: v for k, v in point.items() if k != 'step'})
        # The loss, if it is named so, and two more.
        first = sorted(means, key=lambda name: name != 'loss')[:3]
        shown = {name: f'{means[name]:.4g}' for name in first}
        if not any(name.startswith(DIAGNOSTICS) for name in first):
            self._bar.set_postfix(shown, refresh=False)

    def log_window(self, at: int, window: Window) -> None:
        """Logs the means of the steps up to one, which must be finite, and the rates."""
        means = window.means()
        self.log(at, means | self._rate.at(at))
        self.require_finite(at, means)

    def require_finite(self, at: int, values: Point) -> None:
        """Raises Diverged unless all metrics are finite."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        # The loss is a sum, and bad where a term is.
        bad = [name for name in bad if name not in ('loss', 'gradient')] or bad
        last = None if self._checkpoints is None else self._checkpoints.latest_step()
        kept = 'nothing was saved' if last is None else f'step {last} is kept in {self._workdir}'
        raise Diverged(
            f'{self._description}: by step {at} no longer finite: {", ".join(sorted(bad))}; '
            f'{kept}: try a lower learning rate'
        )

    def report_gradients(self, at: int, report: GradientReport) -> None:
        """Logs a report of the gradient doctor, and keeps its table.

        Raises:
            GradientError: before the first step a term that trains nothing; later one that is not
                finite.
        """
        self.log(at, {f'{DIAGNOSTICS}{k}': v for k, v in report.scalars().items()})
        if self._workdir is not None and jax.process_index() == 0:
            tables = self._workdir / 'gradients'
            tables.mkdir(exist_ok=True)
            write_atomically(tables / f'{at}.txt', f'{report}\n')
        if report.failures and (at == 0 or not report.finite):
            raise GradientError(report)
        for failure in report.failures:
            logging.warning('%s: after step %d, %s', self._description, at, failure)
