"""Splits by canonical form, and batches as a pure function of seed and step."""

import functools
from typing import NamedTuple, Protocol

import numpy as np

from cdjax.errors import InputError, check_seed

# Part of the training forms that distillation may use, and of all forms that is held out.
SHARE, TEST = 0.25, 0.2


class HasForms(Protocol):
    """Problems with canonical forms: a Dataset, or the Problems of a task."""

    forms: np.ndarray


class Split(NamedTuple):
    """Rows of a data set, each an ascending int64 array; `share` is a part of `train`."""

    train: np.ndarray
    share: np.ndarray
    test: np.ndarray


def split(dataset: HasForms, *, share: float = SHARE, test: float = TEST, seed: int) -> Split:
    """Splits a data set by canonical form: no form is in both train and test.

    Args:
      dataset: anything with `forms`, int [N].
      share: part of the training forms (not of the problems) that makes up `share`, in (0, 1].
      test: part of all forms that makes up `test`, in (0, 1).
      seed: not negative; the split is a function of the forms and of this number.

    Raises:
      InputError: a part or a seed out of its range, or a part so small that it holds no form.
    """
    check_seed(split_seed=seed)
    if not 0 < test < 1:
        raise InputError(f'test={test}: expected a part of all forms between 0 and 1')
    if not 0 < share <= 1:
        raise InputError(
            f'share={share}: expected a part of the training forms, above 0 and at most 1'
        )
    forms = np.random.default_rng(seed).permutation(np.unique(dataset.forms))
    tested = round(test * len(forms))
    shared = round(share * (len(forms) - tested))
    if not tested or not shared:
        raise InputError(
            f'test={test} and share={share} of {len(forms)} canonical forms leave {tested} to test '
            f'and {shared} to share: take larger parts or more problems'
        )
    in_test = np.isin(dataset.forms, forms[:tested])
    in_share = np.isin(dataset.forms, forms[tested : tested + shared])
    return Split(*(np.flatnonzero(rows) for rows in (~in_test, in_share, in_test)))


def smaller_share(dataset: HasForms, of: Split, problems: int, *, seed: int) -> Split:
    """Returns a split whose share is a part of that of another: whole forms, nested in each other.

    Args:
      dataset: the problems that were split.
      of: their split.
      problems: of the smaller share; the last form in it may make it less by a few.
      seed: of the order in which forms are taken.

    Raises:
      InputError: fewer problems than a form has, or more than the share.
    """
    forms, of_row = np.unique(dataset.forms[of.share], return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(forms))
    counts = np.zeros(len(forms), np.int64)
    np.add.at(counts, place[of_row], 1)
    taken = int((np.cumsum(counts) <= problems).sum())
    if not taken or problems > len(of.share):
        raise InputError(
            f'training_problems={problems}: the share has {len(of.share)} problems of '
            f'{len(forms)} forms; choose at most as many, and at least those of a form'
        )
    return of._replace(share=of.share[place[of_row] < taken])


def validation_split(dataset: HasForms, of: Split, *, part: float, seed: int) -> Split:
    """Splits the training problems of a split once more: its `test` is what choices are made on.

    No problem that was held out before is in any part of it, so that what is chosen can be
    evaluated on those.

    Args:
      dataset: the problems that were split.
      of: their split.
      part: of the training forms, those that are held out now, in (0, 1).
      seed: not negative.

    Raises:
      InputError: as of `split`.
    """
    inner = split(_Forms(dataset.forms[of.train]), share=1.0, test=part, seed=seed)
    return Split(*(of.train[rows] for rows in inner))


class _Forms(NamedTuple):
    forms: np.ndarray


def batch_indices(indices: np.ndarray, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """Returns the rows of one step's batch: a pure function of its arguments.

    The steps walk through one permutation of `indices` after the other, a new one each epoch, and
    a batch may lie across epochs: every row is seen equally often, whatever the batch size.

    Args:
      indices: int [N], the rows to draw from.
      batch_size: rows of a batch, also more than N.
      seed: non-negative.
      step: from 0.

    Returns:
      int [batch_size].
    """
    N = len(indices)
    if not N or batch_size < 1:
        raise InputError(f'a batch of {batch_size} out of {N} problems: both must be at least 1')
    start, stop = step * batch_size, (step + 1) * batch_size
    epochs = range(start // N, (stop - 1) // N + 1)
    order = np.concatenate([_permutation(N, seed, epoch) for epoch in epochs])
    return np.asarray(indices)[order[start - epochs[0] * N : stop - epochs[0] * N]]


@functools.lru_cache(maxsize=8)
def _permutation(N: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(N)
    order.flags.writeable = False
    return order
