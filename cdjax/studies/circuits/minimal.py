"""Are all neurons of the circuits needed?"""

from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.evaluation.minimality import MATTERS, drop, needless_share, without_blocks
from cdjax.studies.circuits.ablated import Ablated


def study_minimality(ablated: Ablated, circuit: Circuit, classes: np.ndarray) -> dict[str, Any]:
    """Takes blocks of the ranking out of the circuits, one at a time, the rest being ablated.

    Args:
        ablated: the model on N problems.
        circuit: the circuits, at their own size.
        classes: int `[N]`.
    """
    (kept,) = ablated.only([circuit.masks], classes)
    less = without_blocks(circuit.scores, circuit.masks)
    neurons = (circuit.size - less[:, 0].sum(axis=(1, 2))).tolist()
    blocks = []
    for n, predictions in zip(neurons, ablated.only(list(less), classes), strict=True):
        fall, interval = drop(kept.probability, predictions.probability)
        blocks.append(
            {
                'neurons': n,
                'accuracy': predictions.accuracy,
                'probability': predictions.mean_probability,
                'drop': fall,
                'drop_interval': interval,
            }
        )
    drops = np.array([block['drop'] for block in blocks])
    return {
        'size': circuit.size,
        'matters': MATTERS,
        'needless': needless_share(drops, np.array(neurons)),
        'blocks': blocks,
    }
