"""Batches with enough problems of a rare class: drawn as trainings draw them, and by hand."""

import numpy as np
import pytest

from cdjax.data import batch_indices
from cdjax.distillation.rare_classes import batch_with_enough

STEPS = 2000


def part_with_enough(own, problems, least, batch, microbatches):
    """Of microbatches that are drawn as a training draws them."""
    rows, enough = np.arange(problems), []
    for step in range(STEPS):
        of_class = batch_indices(rows, batch, seed=3, step=step) < own
        enough += [of_class[part::microbatches].sum() >= least for part in range(microbatches)]
    return np.mean(enough)


@pytest.mark.parametrize(
    ('own', 'problems', 'least', 'microbatches'),
    [(10, 60, 4, 1), (10, 184, 4, 1), (40, 184, 4, 2), (40, 184, 4, 4), (60, 600, 6, 2)],
)
def test_the_batch_has_enough_of_a_class_in_nearly_all_microbatches(
    own, problems, least, microbatches
):
    batch = batch_with_enough(
        own, problems, least, microbatches=microbatches, multiple=microbatches
    )
    drawn = lambda batch: part_with_enough(own, problems, least, batch, microbatches)
    assert 0.94 < drawn(batch) < 0.965, 'enough, and not far more than that'
    fewer = batch - max(batch // 10 // microbatches, 1) * microbatches
    assert drawn(fewer) < 0.94
    # A batch with enough on average, for comparison.
    assert drawn(-(-least * problems // own) * microbatches) < 0.7


def test_by_hand():
    # All four are wanted: without one row they are there in 56 of 60 batches.
    assert batch_with_enough(4, 60, 4) == 60
    assert batch_with_enough(60, 60, 4) == 4
    # 59 of 60 rows are of the class: four of five miss it never, four of four in 1 of 15.
    assert batch_with_enough(59, 60, 4) == 5
    assert batch_with_enough(59, 60, 4, microbatches=2, multiple=2) == 10
    assert batch_with_enough(59, 60, 4, microbatches=2, multiple=16) == 16
    assert batch_with_enough(3, 60, 4) is None
    assert batch_with_enough(4, 60, 4, microbatches=2, multiple=2) is None
    # Of large ones not every batch is tried, but always all problems.
    assert batch_with_enough(4, 4001, 4) == 4001
