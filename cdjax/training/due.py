"""After which steps of a training something is to be done."""

import dataclasses
from typing import NamedTuple

from cdjax.run.options import RunOptions


class Due(NamedTuple):
    """What is to be done after a step."""

    last: bool
    log: bool
    evaluate: bool
    diagnose: bool
    save: bool

    @property
    def any(self) -> bool:
        """Whether the step has to be waited for."""
        return self.evaluate or self.diagnose or self.save


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a training logs, evaluates, asks the gradient doctor and saves.

    Attributes:
        steps: of the finished training.
        options: how often checkpoints and reports are made, and which steps are traced.
        log_every: steps between log points.
        evaluate_every: steps between evaluations; only after the last step if None.
        evaluates: whether anything is evaluated.
        saves: whether checkpoints are kept.
        saves_best: whether each evaluated step may be one that is kept.
    """

    steps: int
    options: RunOptions
    log_every: int
    evaluate_every: int | None
    evaluates: bool
    saves: bool
    saves_best: bool

    def next_stop(self, done: int, at_once: int) -> int:
        """Returns the step after which something is due, or `at_once` steps later."""
        everies = [self.log_every, self.evaluate_every, self.options.diagnose_every]
        everies += [self.options.checkpoint_every if self.saves else None]
        ends = [self.steps, done + at_once, *(self.options.profile_steps or ())]
        ends += [(done // every + 1) * every for every in everies if every is not None]
        return min(end for end in ends if end > done)

    def due(self, done: int, *, stopped: bool) -> Due:
        """Returns what is due after a step.

        Args:
            done: steps that are done.
            stopped: whether the training ends here, for the process is told to.
        """
        at = lambda every: every is not None and done % every == 0
        last = done == self.steps
        evaluate = self.evaluates and (last or at(self.evaluate_every))
        save = last or stopped or at(self.options.checkpoint_every)
        return Due(
            last,
            log=last or at(self.log_every),
            evaluate=evaluate,
            diagnose=at(self.options.diagnose_every),
            save=self.saves and (save or (evaluate and self.saves_best)),
        )
