"""Double dissociation: each of two circuits moves its own class, and not the other's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.distillation.arms import KD
from cdjax.distillation.arms.single import FIRST, SECOND
from cdjax.evaluation.statistics import paired_p, student_interval


def dissociation(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns whether aligning the circuits of two classes dissociates them.

    With a_j(k) the accuracy on class j of the student to whose KD the circuit of class k was added,
    the interaction of both: `(a_0(0) − a_1(0)) − (a_0(1) − a_1(1))`, 0 of what helps all classes
    alike, or one class whichever circuit is aligned.

    Args:
        runs: of all students of a start.

    Returns:
        None without students of both arms. The mean `interaction` over seeds that have both, with
        Student's t `interval` and `p` (None with one seed), `seeds`; and `gains[][]`, by circuit
        that is aligned and class that is answered, mean accuracy over KD's, None without KD.
    """
    of = {(run['arm'], run['seed']): run['by_class'][:2] for run in runs}
    arms = FIRST, SECOND
    seeds = sorted(seed for arm, seed in of if arm == FIRST and (SECOND, seed) in of)
    if not seeds:
        return None
    found = np.array([[of[arm, seed] for arm in arms] for seed in seeds], float)
    gaps = (found[:, 0, 0] - found[:, 0, 1]) - (found[:, 1, 0] - found[:, 1, 1])
    gains = None
    if all((KD.key, seed) in of for seed in seeds):
        kd = np.array([of[KD.key, seed] for seed in seeds], float)
        gains = (found - kd[:, None]).mean(axis=0).tolist()
    return {
        'seeds': seeds,
        'interaction': float(gaps.mean()),
        'interval': student_interval(gaps),
        'p': paired_p(gaps),
        'gains': gains,
    }
