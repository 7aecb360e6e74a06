"""What a run writes, checks and holds at once, and what decides no result of it."""

import dataclasses

from cdjax.errors import InputError

# Tokens that go through a model at once, over all devices, in a pass that no gradient follows.
TOKENS_PER_PASS = 4096
# Newest checkpoints of a training that are kept.
KEPT = 2


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of every training of a run; two runs that differ in nothing else agree.

    Attributes:
        checkpoint_every: steps between checkpoints; the last step is saved always.
        profile_steps: `(first, end)`: a profiler trace of the steps `first <= n < end`.
        check_gradients: ask the gradient doctor before the first step, and stop where a term of
            the objective trains nothing.
        diagnose_every: steps between further reports of the doctor; none if None.
        tokens_per_pass: tokens of a batch of a pass over a data set.
        workers: processes that share out the CPU cores, where a run consists of parts that know
            nothing of each other (`cdjax.run.workers`).

    Raises:
        InputError: a value out of range.
    """

    checkpoint_every: int = 200
    profile_steps: tuple[int, int] | None = None
    check_gradients: bool = True
    diagnose_every: int | None = None
    tokens_per_pass: int = TOKENS_PER_PASS
    workers: int = 1

    def __post_init__(self):
        for name in ('checkpoint_every', 'diagnose_every', 'tokens_per_pass', 'workers'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f'{name}={value} must be at least 1')
        if self.profile_steps is not None:
            first, end = self.profile_steps
            if not 0 <= first < end:
                raise InputError(
                    f'profile_steps={first}:{end}: FIRST must be at least 0, and END above it'
                )

    @property
    def unchecked(self) -> 'RunOptions':
        """These options for one of many trainings alike: the gradient doctor is not asked again."""
        return dataclasses.replace(self, check_gradients=False)
