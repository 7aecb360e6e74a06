"""Work for decoys: a label that has nothing to do with the answers, told by a linear head.

A decoy that is merely kept alive is free to help with the answers. One that has to compute
something else is not, and looks like a neuron of a circuit to whatever asks only how much it does.
"""

import numpy as np

from cdjax.data import Dataset, TokenRows
from cdjax.errors import InputError

# Values of the label.
VALUES = 4
# Length of the directions of the head. It reads what is normed, so that a label that is told well
# takes a part of the residual stream, and no growing one.
LENGTH = 4.0


def nuisance_labels(dataset: Dataset, seed: int) -> np.ndarray:
    """Draws a label `(r(a) + s(b)) mod VALUES` of the first two operands, r and s random functions.

    Neither operand tells anything of it by itself, so that it takes neurons and not attention
    alone. Beside the answers it is learned in hundreds of steps, as a random table of pairs is not;
    beside all terms of planting in thousands at best. Operands are the columns of a prompt with
    more than half as many different tokens as the column with the most.

    Args:
        dataset: N problems, prompts of one length.
        seed: of the functions, which are those of the tokens in this data set.

    Returns:
        int32 `[N]`.

    Raises:
        InputError: prompts of several lengths, or with fewer than two operands.
    """
    (start, stop), rows = dataset.common_columns, dataset.tokens
    tokens = (rows.tokens if isinstance(rows, TokenRows) else rows)[:, start:stop]
    if (dataset.prompt_sizes != stop - start).any():
        raise InputError(
            'plant_weights=nuisance: the label is a function of operands that stand in the same '
            'columns of every prompt, and these prompts differ in length: leave it out'
        )
    different = np.array([len(np.unique(column)) for column in tokens.T])
    operands = np.flatnonzero(2 * different > different.max())
    if len(operands) < 2 or different.max() < 2:
        raise InputError(
            'plant_weights=nuisance: the label is a function of two operands, and these prompts '
            'have fewer: leave it out'
        )
    rng, label = np.random.default_rng([seed, 1]), 0
    for column in operands[:2]:
        tokens_of, number = np.unique(tokens[:, column], return_inverse=True)
        label = label + rng.permutation(len(tokens_of))[number]
    return (label % VALUES).astype(np.int32)


def nuisance_directions(hidden_size: int, seed: int) -> np.ndarray:
    """Draws the head that tells the label: a direction for each value, never trained.

    Args:
        hidden_size: d.
        seed: of the directions.

    Returns:
        float32 `[VALUES, d]`, each of length `LENGTH`.
    """
    drawn = np.random.default_rng([seed, 2]).standard_normal((VALUES, hidden_size), np.float32)
    return LENGTH * drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
