"""How large a batch has to be, so that a rare class has problems enough in nearly all of them."""

import math
from collections.abc import Iterator

import numpy as np

USUALLY = 0.95  # of what is compared at once


def batch_with_enough(
    own: int, problems: int, least: int, *, microbatches: int = 1, multiple: int = 1
) -> int | None:
    """Returns the smallest batch with enough problems of a class in 95 % of its microbatches.

    None where no batch of at most all problems has. Of large batches every one in a hundredth of
    their size is tried, so that what is returned is the smallest to 1 %.

    Args:
        own: problems of the class.
        problems: of all classes, N, drawn as by `cdjax.data.batch_indices`.
        least: that are enough.
        microbatches: parts of a batch, each of which is compared by itself.
        multiple: what the batch has to be a multiple of, `microbatches` or more of them.
    """
    exactly = _drawn(own, problems, np.arange(problems // microbatches + 1), np.arange(least))
    at_most = exactly.cumsum(axis=1)
    # What lies across two permutations varies more, so that no smaller batch does.
    within_one = np.flatnonzero(at_most[:, -1] <= 1 - USUALLY)
    first = within_one[0] * microbatches if len(within_one) else problems + 1
    for batch in _tried(first, problems, multiple):
        of_one = _rows_of_one_epoch(problems, batch, microbatches)
        of_next = batch // microbatches - np.arange(len(of_one))
        short = (exactly[: len(of_one)] * at_most[of_next, ::-1]).sum(axis=1)
        if of_one @ short <= 1 - USUALLY:
            return batch
    return None


def _tried(first: int, last: int, multiple: int) -> Iterator[int]:
    """Yields multiples from `first` to `last`, of large ones one in a hundredth of their size."""
    batch, largest = math.ceil(first / multiple) * multiple, last // multiple * multiple
    while batch < largest:
        yield batch
        batch += multiple * max(1, batch // (100 * multiple))
    if first <= largest:
        yield largest


def _drawn(own: int, problems: int, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the probability that so many of these rows are of the class, `[rows, counts]`.

    Hypergeometric: rows of one permutation. By logarithms, a hundredth of the time of SciPy's own.
    """
    from scipy.special import gammaln  # takes a third of a second to import

    def log_choices(n, k):
        inside = (k >= 0) & (k <= n)
        k = np.where(inside, k, 0)
        found = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        return np.where(inside, found, -np.inf)

    rows = rows[:, None]
    of_class, of_others = log_choices(own, counts), log_choices(problems - own, rows - counts)
    return np.exp(of_class + of_others - log_choices(problems, rows))


def _rows_of_one_epoch(problems: int, batch: int, microbatches: int) -> np.ndarray:
    """Returns how often 0, 1, ... rows of a microbatch are of the epoch that it begins in.

    The rest are of the next one, another permutation. A batch begins anywhere in an epoch, at
    multiples of the largest common divisor, and row r is in part r mod `microbatches`.
    """
    step = math.gcd(problems, batch)
    left = np.arange(step, batch + 1, step)  # rows of the epoch, in the batch
    often = np.ones(len(left))
    often[-1] += (problems - batch) // step
    rows = -((np.arange(microbatches)[:, None] - left) // microbatches)
    weights = np.broadcast_to(often, rows.shape).ravel()
    found = np.bincount(rows.ravel(), weights, minlength=batch // microbatches + 1)
    return found / weights.sum()
