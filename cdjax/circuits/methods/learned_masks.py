"""Masks that are trained: the circuits that are studied, and theirs for other classes.

The controls differ from the circuits in nothing but the classes, which are fixed beforehand: the
same steps on the same problems give masks of the same size.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from cdjax.circuits.methods.first_ranking import first_rankings
from cdjax.circuits.methods.method import Context, Method, Request
from cdjax.data import Dataset
from cdjax.errors import InputError
from cdjax.models import Llama
from cdjax.training.discovery import DiscoveryConfig, discover


def studied_scores(
    model: Llama, dataset: Dataset, rows: np.ndarray, classes: np.ndarray, *, context: Context
) -> np.ndarray:
    """Returns the scores of the circuits that are studied, learned along with their classes."""
    return context.learned


def train_scores(
    model: Llama,
    dataset: Dataset,
    rows: np.ndarray,
    classes: np.ndarray,
    *,
    context: Context,
    key: str,
) -> np.ndarray:
    """Learns masks for classes that are fixed, as the circuits that are studied were learned."""
    # Under the name that the teacher's own search goes by: of one shape they are one program.
    models, options = {'teacher': model}, context.options.unchecked
    search = search_for(int(classes.max()) + 1, context.discovery)
    rank = lambda: first_rankings(models, dataset, rows, search, mesh=context.mesh, options=options)
    circuits, _ = discover(
        models,
        dataset,
        rows,
        search,
        mesh=context.mesh,
        classes=classes,
        first_scores=context.once(first_rankings, rank),
        description=f'learn masks: {key}',
        workdir=None if context.workdir is None else context.workdir / key,
        options=options,
    )
    return circuits['teacher'].scores


def search_for(num_classes: int, discovery: DiscoveryConfig) -> DiscoveryConfig:
    """Returns the search for another number of classes; raises InputError where it cannot be."""
    objective = discovery.objective.suited_to(num_classes)
    return dataclasses.replace(discovery, num_classes=num_classes, objective=objective)


def for_classes(
    classes: str, key: str, title: str, phrase: str, colour: str, **fields: Any
) -> Method:
    """Returns the method of masks learned for the classes of a scheme.

    Args:
        classes: key of the `ClassScheme`.
        key: see `Method`, like the others.
        title: as there.
        phrase: as there.
        colour: as there.
        **fields: others of `Method`.
    """

    def check(request: Request) -> None:
        try:
            search_for(request.num_classes, request.discovery)
        except InputError as error:
            raise InputError(f'{error}; or leave {key} out of methods') from error

    scores = functools.partial(train_scores, key=key)
    own = {'scores': scores, 'classes': classes, 'check': check, 'trains': True}
    return Method(key, title, phrase, colour, **own, **fields)


LEARNED = Method('learned', 'learned classes', 'learned classes', 'blue', scores=studied_scores)
ONE_MASK = for_classes('one', 'one_mask', 'one mask', 'one mask for all problems', 'orange')
OPERATORS = for_classes(
    'operators', 'operator_classes', 'operator classes', 'operator classes', 'green'
)
RANDOM_CLASSES = for_classes(
    'random', 'random_classes', 'random classes', 'random classes', 'purple'
)
ANSWER_CUT = for_classes(
    'answer_cut', 'answer_cut_classes', 'answer-cut classes', 'answer-cut classes', 'vermillion'
)
ANSWER_MATCHED = for_classes(
    'answer_matched',
    'answer_matched_classes',
    'answer-matched classes',
    'classes that tell as much of the answer',
    'vermillion',
    line='dashed',
)
ATTRIBUTION = for_classes(
    'attribution',
    'attribution_classes',
    'attribution classes',
    'classes of attribution',
    'vermillion',
    line='dotted',
    by_default=False,
)
EM = for_classes(
    'em',
    'em_classes',
    'EM classes',
    'classes of expectation maximisation',
    'sky',
    line='dashdot',
    by_default=False,
)
