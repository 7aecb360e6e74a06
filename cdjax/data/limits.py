"""Limits of what a share may hold: what lies beyond them tells how far students generalise."""

import dataclasses
import re

import numpy as np

from cdjax.data.dataset import Dataset
from cdjax.errors import InputError

_NUMBER = re.compile(r'\d+')


@dataclasses.dataclass(frozen=True)
class Limits:
    """What problems have to be to be learned from.

    Attributes:
      high: the largest operand: one number for all operands, or one for each in its place. Empty
        for no limit.
      label: a label and the value that it has, `LABEL=VALUE`; any if empty.
    """

    high: tuple[int, ...] = ()
    label: str = ''

    def __post_init__(self):
        if any(number < 0 for number in self.high):
            raise InputError(f'share_high={_listed(self.high)}: operands are not negative')
        if self.label and '=' not in self.label:
            raise InputError(f'share_where={self.label}: write LABEL=VALUE')

    @property
    def none(self) -> bool:
        """Whether there are none."""
        return not self.high and not self.label

    def within(self, dataset: Dataset, prefix: str = '') -> np.ndarray:
        """Returns which problems are within the limits, bool [N].

        Args:
          dataset: N problems.
          prefix: text in front of each prompt, whose numbers are no operands.

        Raises:
          InputError: a label or a value that the problems lack, or another number of limits than
            a problem has operands.
        """
        within = np.ones(len(dataset), bool)
        if self.label:
            name, _, value = self.label.partition('=')
            if name not in dataset.labels:
                raise InputError(
                    f'share_where={self.label}: these problems have no label {name!r}, only '
                    f'{", ".join(dataset.labels)}'
                )
            if value not in dataset.label_names[name]:
                raise InputError(
                    f'share_where={self.label}: {name} is one of '
                    f'{", ".join(dataset.label_names[name])}'
                )
            within &= dataset.labels[name] == dataset.label_names[name].index(value)
        if self.high:
            within &= [self._low_enough(text.removeprefix(prefix)) for text in dataset.prompts]
        return within

    def _low_enough(self, prompt: str) -> bool:
        operands = [int(number) for number in _NUMBER.findall(prompt)]
        high = self.high * len(operands) if len(self.high) == 1 else self.high
        if len(high) != len(operands):
            raise InputError(
                f'share_high={_listed(self.high)} has {len(high)} limits, and {prompt!r} '
                f'{len(operands)} operands: give one for all of them, or one for each'
            )
        return all(number <= limit for number, limit in zip(operands, high, strict=True))


def _listed(numbers: tuple[int, ...]) -> str:
    return ','.join(map(str, numbers))
