"""Whether arms can be told apart at all: how alike their targets are inside the teacher.

Where the target of a control is the target of the arm it is held against, aligning one is aligning
the other, and no table of students says anything about the choice.
"""

import itertools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import Given
from cdjax.distillation.cka import debiased_cka
from cdjax.distillation.contribution import contributed_part
from cdjax.losses.cka import MIN_ROWS

# Above it arms are hardly told apart, whatever students do.
CLOSE = 0.7


def target_similarity(
    one: Alignment, other: Alignment, of_one: np.ndarray, of_other: np.ndarray
) -> float | None:
    """Returns the debiased CKA of what two alignments have their students copy, mean over pairs.

    Compared are the columns of the two, on the same problems: those that are in one class of either
    at once, as all are where an alignment has no classes. Such groups count by their problems; with
    fewer than 4 they are left out, and with none left the similarity is None. Which problems are
    held against each other is the other factor of an arm, and is no part of it.

    Args:
        one: an alignment; its pairs may differ from the other's in the teacher's layers alone.
        other: another one of the same student's layers, site and positions.
        of_one: `[N, pairs, ...]`, the teacher's activations of the paired layers of `one`, of the
            problems that its classes are of.
        of_other: likewise, of `other`.
    """
    groups = _groups(one, other, len(of_one))
    values, counts = [], []
    for rows, j, k in groups:
        if len(rows) < MIN_ROWS:
            continue
        for pair in range(len(one.pairs)):
            x = _target(one, of_one, rows, pair, j)
            y = _target(other, of_other, rows, pair, k)
            values.append(debiased_cka(x, y))
            counts.append(len(rows))
    return float(np.average(values, weights=counts)) if counts else None


def headroom(
    alignments: Mapping[str, Alignment], activations: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float | None]]:
    """Returns the similarity of each arm's target to each other's, by the keys of the two.

    None of two that are told apart by something else, however alike their targets are: by how they
    compare, such as by CKA and by a learned map, or by which problems they hold against each other,
    see `differ_in_classes_alone`.

    Args:
        alignments: what each arm compares.
        activations: the teacher's, of each arm, as for `target_similarity`; of one that compares
            what units write, that, as a `Target` has it.
    """
    found = {key: {} for key in alignments}
    for a, b in itertools.combinations(alignments, 2):
        one, other, value = alignments[a], alignments[b], None
        in_classes = differ_in_classes_alone(one, other, len(activations[a]))
        if one.similarity == other.similarity and not in_classes:
            value = target_similarity(one, other, activations[a], activations[b])
        found[a][b] = found[b][a] = value
    return found


def differ_in_classes_alone(one: Alignment, other: Alignment, rows: int) -> bool:
    """Tells whether two alignments have the same columns, and hold other problems together.

    Their columns are as alike as can be, and that says nothing: what such arms are held against
    each other for is their classes.

    Args:
        one: an alignment.
        other: another one.
        rows: N, the problems of both.
    """
    if (one.pairs, one.reading) != (other.pairs, other.reading):
        return False
    same = all(  # None is equal to None alone
        np.array_equal(getattr(one, field), getattr(other, field))
        for field in ('teacher_masks', 'teacher_rows')
    )
    return same and not np.array_equal(_classes(one, rows), _classes(other, rows))


def close_pairs(
    found: Mapping[str, Mapping[str, float | None]],
) -> list[tuple[str, str, float]]:
    """Returns the pairs of arms whose targets are closer than `CLOSE`, the most alike first.

    Args:
        found: what `headroom` returns.
    """
    told = [(a, b, found[a][b]) for a, b in itertools.combinations(found, 2)]
    close = [pair for pair in told if pair[2] is not None and pair[2] > CLOSE]
    return sorted(close, key=lambda pair: -pair[2])


def contributions(
    given: Given, alignments: Mapping[str, Alignment | None]
) -> dict[str, float | None]:
    """Returns what the columns of each arm contribute in parts of what the class circuits do.

    See `contributed_part`; of arms that have masks, in the layers that they compare. Nothing where
    what units contribute is not known.

    Args:
        given: what the arms are made from.
        alignments: what each arm compares, if anything.
    """
    if given.contribution is None:
        return {}

    def compared(masks: np.ndarray, alignment: Alignment) -> np.ndarray:
        layers = np.isin(np.arange(masks.shape[1]), alignment.teacher_layers)
        return masks & layers[:, None]

    circuits = compared(given.teacher.masks, given.alignment)
    return {
        arm: contributed_part(compared(found.teacher_masks, found), circuits, given.contribution)
        for arm, found in alignments.items()
        if found is not None and found.teacher_masks is not None
    }


def _classes(alignment: Alignment, rows: int) -> np.ndarray:
    """Returns the class of each problem, int `[N]`; where there are none, all are of one."""
    return np.zeros(rows, int) if alignment.classes is None else np.asarray(alignment.classes)


def _groups(one: Alignment, other: Alignment, rows: int):
    """Yields rows, class in `one` and class in `other`, for each two classes."""
    classes = [_classes(alignment, rows) for alignment in (one, other)]
    for j, k in np.unique(np.stack(classes, axis=1), axis=0):
        yield np.flatnonzero((classes[0] == j) & (classes[1] == k)), j, k


def _target(alignment: Alignment, activations: np.ndarray, rows, pair: int, k: int):
    """Returns what one class of an alignment has of these rows in a layer pair, `[n, features]`."""
    if alignment.written:  # the units of each class are summed already
        return jnp.asarray(activations[rows, pair], jnp.float32).reshape(len(rows), -1)
    taken = rows if alignment.teacher_rows is None else alignment.teacher_rows[rows]
    features = jnp.asarray(activations[taken, pair], jnp.float32)
    flat = features.reshape(len(rows), -1)
    if alignment.teacher_masks is None:
        return flat
    layer = alignment.teacher_layers[pair]
    masks = jnp.asarray(alignment.teacher_masks[k : k + 1, layer], jnp.float32)
    # Zeros add nothing to a linear kernel, so that masks of all sizes share a compilation.
    return flat * alignment.over_features(masks, features.shape)
