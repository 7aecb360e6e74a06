"""A model that one training with evaluations made: which of its steps is exported, and how good."""

import dataclasses

from absl import logging
from etils import epath

from cdjax.errors import InputError
from cdjax.models import Llama
from cdjax.training.loop import best_parameters

# The evaluation by which the best checkpoint is kept, and which step is exported.
BEST = ('accuracy', 'max')
EXPORTS = ('last', 'best')


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A model that was trained and exported.

    Attributes:
        model: the model.
        folder: its Hugging Face folder.
        accuracy: on the problems of unseen forms.
        problems: how many these are.
    """

    model: Llama
    folder: epath.Path
    accuracy: float
    problems: int


def check_evaluations(evaluate_every: int, export: str) -> None:
    """Raises InputError unless there are evaluations, and `export` is one of `EXPORTS`."""
    if evaluate_every < 1:
        raise InputError(f'evaluate_every={evaluate_every} must be at least 1')
    if export not in EXPORTS:
        raise InputError(f'export={export}: choose from {", ".join(EXPORTS)}')


def exported(model: Llama, workdir: epath.Path, export: str) -> Llama:
    """Returns the model of the step that is exported, one of `EXPORTS`, given the last one's."""
    if export == 'last':
        return model
    model, step = best_parameters(workdir, model, BEST)
    logging.warning('exporting step %d, chosen by the very problems it is evaluated on', step)
    return model
