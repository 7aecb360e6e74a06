"""Which problems a checkpoint was trained on, as a small file beside its weights.

A student that has seen the problems on which it is going to be measured shows what it remembers,
in a figure that looks like any other. What this package trains says what it was trained on.
"""

import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from cdjax.data.dataset import Dataset
from cdjax.data.splits import split
from cdjax.errors import InputError
from cdjax.run.json_file import read_json

FILE = 'training_data.json'
VERSION = 1
OUTSIDE_SHARE = 'train without share'
PARTS = ('train', 'share', OUTSIDE_SHARE)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The problems of one training.

    Attributes:
      data: `Dataset.hash` of all problems.
      split_seed: of their split by canonical form.
      share: part of the training forms in `share`, see `splits.split`.
      test: part of all forms in `test`.
      part: which part of that split was trained on, one of `PARTS`.
    """

    data: str
    split_seed: int
    share: float
    test: float
    part: str

    def __post_init__(self):
        parts = (self.share, self.test)
        if (
            self.part not in PARTS
            or type(self.split_seed) is not int
            or not all(isinstance(part, int | float) for part in parts)
        ):
            raise InputError(f'no training is {self}; its part is one of {", ".join(PARTS)}')

    @property
    def flags(self) -> str:
        """The split as a launcher's flags."""
        return f'--split_seed={self.split_seed} --share={self.share} --test={self.test}'

    def rows(self, dataset: Dataset) -> np.ndarray:
        """Returns the rows of the same data set that were trained on, int64 [n]."""
        parts = split(dataset, share=self.share, test=self.test, seed=self.split_seed)
        if self.part == OUTSIDE_SHARE:
            return np.setdiff1d(parts.train, parts.share)
        return getattr(parts, self.part)


def count_seen(
    trainings: Sequence[TrainingData], dataset: Dataset, rows: np.ndarray
) -> tuple[int, bool]:
    """Counts problems that a checkpoint has been trained on.

    Args:
      trainings: what `read_training_data` returns.
      dataset: N problems.
      rows: int [n], those that it is going to be measured on.

    Returns:
      How many of `rows` it was trained on; and whether there were trainings on other data sets,
      of which nothing is known.
    """
    here = [training for training in trainings if training.data == dataset.hash]
    seen = [training.rows(dataset) for training in here]
    count = np.isin(rows, np.concatenate(seen)).sum() if seen else 0
    return int(count), len(here) < len(trainings)


def training_data_file(trainings: Sequence[TrainingData]) -> dict[str, str]:
    """Returns the name and the text of the file that says so, to be written with the weights."""
    content = {'version': VERSION, 'trainings': [dataclasses.asdict(each) for each in trainings]}
    return {FILE: json.dumps(content, indent=2) + '\n'}


def read_training_data(folder: str | os.PathLike) -> tuple[TrainingData, ...]:
    """Returns the trainings of a checkpoint, in order; none where it does not say.

    Raises:
      InputError: the file is damaged, or of a later version.
    """
    file = epath.Path(folder) / FILE
    if not file.exists():
        return ()
    try:
        content = read_json(file)
        if content['version'] != VERSION:
            raise ValueError(f'version {content["version"]}, and this one reads {VERSION}')
        trainings = tuple(TrainingData(**each) for each in content['trainings'])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{file} does not say what the checkpoint was trained on ({error}): restore it, or '
            'remove it if the problems held out here are known to be new to the checkpoint'
        ) from error
    return trainings
