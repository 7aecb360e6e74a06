"""What an alignment has a student copy: the teacher's side of every batch."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.store import OnlineTeacher, TeacherStore
from cdjax.errors import InputError

ROWS_AT_ONCE = 1024


class Target:
    """The teacher's activations of each problem and pair, `target[index]` of some problems.

    What units write is summed once for all steps, `(m_k ⊙ a) W` of the masks of each problem's
    class: then no array of all units is kept, and nothing of it is computed in a step. An online
    teacher's is, for nothing of it is kept.

    Args:
        alignment: what is compared, before it is `placed`.
        store: what the teacher says of the problems that its classes are of.

    Raises:
        InputError: what units write is wanted, and the store has no matrices.
    """

    def __init__(self, alignment: Alignment, store: TeacherStore | OnlineTeacher):
        self._alignment, self._store = alignment, store
        self._written = None
        if alignment.written:
            if store.outputs is None:
                raise InputError(
                    f'align_reading={alignment.reading}: the store of the teacher holds no output '
                    'matrices'
                )
            outputs = store.outputs[store.places(alignment.teacher_layers)]
            self._outputs = [jnp.asarray(matrix) for matrix in outputs]
            if isinstance(store, TeacherStore):
                parts = range(0, len(store), ROWS_AT_ONCE)
                every = np.arange(len(store))
                self._written = np.concatenate(
                    [self._write(every[start : start + ROWS_AT_ONCE]) for start in parts]
                )

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns `[n, pairs, ...]`; of a teacher whose rows are shuffled, those of other rows."""
        if self._written is not None:
            return self._written[index]
        return self._write(index) if self._alignment.written else self._activations(index)

    @property
    def width(self) -> int:
        """Numbers of a problem and pair."""
        return math.prod(self[np.arange(1)].shape[2:])

    def _activations(self, index: np.ndarray) -> np.ndarray:
        rows = self._alignment.teacher_rows
        taken = index if rows is None else rows[index]
        layers = self._alignment.teacher_layers
        return self._alignment.of_teacher(self._store.of_layers(layers, taken))

    def _write(self, index: np.ndarray) -> np.ndarray:
        alignment, found = self._alignment, self._activations(index)
        written = []
        for pair, layer in enumerate(alignment.teacher_layers):
            masks = None
            if alignment.teacher_masks is not None:
                masks = alignment.teacher_masks[alignment.classes[index], layer]
            how = alignment.site, alignment.teacher_units[pair]
            written.append(_written(found[:, pair], masks, self._outputs[pair], *how))
        return np.stack([np.asarray(rows) for rows in written], axis=1)


@functools.partial(jax.jit, static_argnames=('site', 'unit'))
def _written(activations, masks, output, site, unit):
    return Alignment.write(activations, masks, output, site, unit)
