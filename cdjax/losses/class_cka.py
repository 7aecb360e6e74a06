"""CKA within each class: circuits are compared on their own rows and their own columns.

Never take one CKA of `activations * masks[class]` over mixed classes: where masks differ by
class, the pattern of zeros tells the classes apart in both models, and independent activations
score .98. Here class k takes its rows only, and the columns of its mask only.
"""

import dataclasses
from typing import Self

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.cka import MIN_ROWS, masked_cka
from cdjax.losses.numerics import safe_ratio


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassCKA:
    """CKA of each class: `values` float32 [K], `counts` int32 [K] of rows, `valid` bool [K].

    A class that is not valid was too small: its value is 0 and says nothing.
    """

    values: jax.Array
    counts: jax.Array
    valid: jax.Array

    def mean(self) -> jax.Array:
        """Returns the mean over the valid classes, float32, and 0 where there is none."""
        return safe_ratio(jnp.sum(self.values), jnp.sum(self.valid).astype(jnp.float32))

    def left_out(self) -> jax.Array:
        """Returns the float32 number of classes that were too small."""
        return jnp.sum(~self.valid).astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowMemory:
    """The last M rows of each class, so that a rare class has enough rows to compare.

    A first-in-first-out pytree of arrays: carry it in the training state. Where its rows are
    compared they are constants to the gradient, and as old as the class is rare: the student
    that wrote them has moved on.

    Attributes:
        student: [K, M, P].
        teacher: [K, M, Q].
        filled: [K, M] bool.
        position: [K] int32, the slot that the next row of each class goes to.
    """

    student: jax.Array
    teacher: jax.Array
    filled: jax.Array
    position: jax.Array

    @classmethod
    def empty(
        cls, classes: int, rows: int, student_width: int, teacher_width: int, dtype=jnp.float32
    ) -> Self:
        """Returns a memory of `rows` rows for each of `classes` classes, with nothing in it."""
        return cls(
            student=jnp.zeros((classes, rows, student_width), dtype),
            teacher=jnp.zeros((classes, rows, teacher_width), dtype),
            filled=jnp.zeros((classes, rows), bool),
            position=jnp.zeros(classes, jnp.int32),
        )

    def push(
        self,
        student: jax.Array,
        teacher: jax.Array,
        assignments: jax.Array,
        *,
        where: jax.Array | None = None,
    ) -> Self:
        """Returns the memory with a batch's rows added, the oldest of each class dropped.

        Call it after the loss of the same batch, or its rows count twice.

        Args:
            student: [N, P].
            teacher: [N, Q].
            assignments: [N, K] one-hot rows.
            where: [N] bool, False for padding rows.

        Returns:
            A new memory; this one is unchanged.
        """
        classes, rows, p = self.student.shape
        n = student.shape[0]
        chex.assert_shape([student, teacher], [(n, p), (n, self.teacher.shape[2])])
        chex.assert_shape(assignments, (n, classes))
        members = _members(assignments, where)
        order = jnp.cumsum(members, axis=0) - 1
        counts = members.sum(axis=0)
        # Of more than M new rows of a class only the last M are written: no slot twice.
        written = members & (order >= (counts - rows)[None])
        slot = (self.position[None] + order) % rows
        row_class = jnp.argmax(members, axis=1)
        row = jnp.arange(n)
        # An index past the end, which mode='drop' ignores, stands for "not written".
        row_slot = jnp.where(written[row, row_class], slot[row, row_class], rows)
        at = (row_class, row_slot)
        return dataclasses.replace(
            self,
            student=self.student.at[at].set(student.astype(self.student.dtype), mode='drop'),
            teacher=self.teacher.at[at].set(teacher.astype(self.teacher.dtype), mode='drop'),
            filled=self.filled.at[at].set(True, mode='drop'),
            position=(self.position + counts) % rows,
        )


def _members(assignments: jax.Array, where: jax.Array | None) -> jax.Array:
    """Returns the [N, K] bool membership of one-hot rows; padding belongs to no class."""
    members = assignments > 0.5
    return members if where is None else members & where[:, None]


def class_conditional_cka(
    x: jax.Array,
    y: jax.Array,
    assignments: jax.Array,
    *,
    x_masks: jax.Array | None = None,
    y_masks: jax.Array | None = None,
    where: jax.Array | None = None,
    min_count: int = MIN_ROWS,
    debiased: bool = True,
    memory: RowMemory | None = None,
) -> ClassCKA:
    """Returns one CKA for each class, of that class's rows and that class's columns.

    `CKA(x[z_k] * m_k, y[z_k] * m'_k)` for k = 1..K. Classes are computed one after another, so
    the largest temporary is that of one CKA of N rows.

    Args:
        x: [N, P] features, any float dtype; with a memory, the student's.
        y: [N, Q] features of the same rows; with a memory, the teacher's.
        assignments: [N, K] one-hot rows; they select rows (above .5) and get no gradient.
        x_masks: [K, P] columns of each class, 0 or 1 (weights scale the columns); None takes
            all.
        y_masks: [K, Q], as `x_masks`.
        where: [N] bool, False for padding rows.
        min_count: a class with fewer rows, those of the memory included, is left out.
        debiased: HSIC₁ rather than HSIC₀.
        memory: past rows, which count as rows of their class and get no gradient.

    Returns:
        A `ClassCKA`.

    Raises:
        ValueError: if `min_count` is below 4 where debiased (2 where biased), or as `linear_cka`.
    """
    chex.assert_rank([x, y, assignments], 2)
    chex.assert_equal_shape_prefix([x, y, assignments], 1)
    least = MIN_ROWS if debiased else 2
    if min_count < least:
        raise ValueError(
            f'min_count={min_count} rows do not define this CKA; give at least {least}'
        )
    (_, p), q, classes = x.shape, y.shape[1], assignments.shape[1]
    for masks, width in ((x_masks, p), (y_masks, q)):
        if masks is not None:
            chex.assert_shape(masks, (classes, width))
    if memory is not None:
        chex.assert_shape(memory.student, (classes, None, p))
        chex.assert_shape(memory.teacher, (classes, None, q))

    def one_class(inputs: tuple) -> tuple[jax.Array, jax.Array]:
        rows, x_mask, y_mask, past = inputs
        x_k, y_k = x, y
        if past is not None:
            past = jax.lax.stop_gradient(past)
            x_k = jnp.concatenate([x, past.student.astype(x.dtype)])
            y_k = jnp.concatenate([y, past.teacher.astype(y.dtype)])
            rows = jnp.concatenate([rows, past.filled])
        cka = masked_cka(x_k, y_k, debiased=debiased, where=rows, x_mask=x_mask, y_mask=y_mask)
        return cka, rows.sum(dtype=jnp.int32)

    members = _members(assignments, where).T
    values, counts = jax.lax.map(one_class, (members, x_masks, y_masks, memory))
    valid = counts >= min_count
    return ClassCKA(jnp.where(valid, values, 0.0), counts, valid)


def class_conditional_cka_loss(
    student: jax.Array,
    teacher: jax.Array,
    assignments: jax.Array,
    *,
    student_masks: jax.Array | None = None,
    teacher_masks: jax.Array | None = None,
    where: jax.Array | None = None,
    min_count: int = MIN_ROWS,
    debiased: bool = True,
    memory: RowMemory | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `1 - mean_k CKA_k` over the classes large enough, and how many were too small.

    The teacher's gradient, and that of both circuits' masks, is stopped.

    Args:
        student: [N, P] features.
        teacher: [N, Q] features of the same rows.
        assignments: [N, K] one-hot rows, the same classes for both models.
        student_masks: [K, P] circuits of the student, or None: a student from nothing has none
            yet, and is aligned with all its neurons.
        teacher_masks: [K, Q] circuits of the teacher, or None.
        where: [N] bool, False for padding rows.
        min_count: the least number of rows of a class.
        debiased: HSIC₁ rather than HSIC₀.
        memory: past rows, for classes that are small in a batch.

    Returns:
        The float32 loss, 0 where every class is left out; and `classes_left_out`, their float32
        number.

    Raises:
        ValueError: as `class_conditional_cka`.
    """
    cka = class_conditional_cka(
        student,
        jax.lax.stop_gradient(teacher),
        assignments,
        x_masks=jax.lax.stop_gradient(student_masks),
        y_masks=jax.lax.stop_gradient(teacher_masks),
        where=where,
        min_count=min_count,
        debiased=debiased,
        memory=memory,
    )
    loss = jnp.where(cka.valid.any(), 1 - cka.mean(), 0.0)
    return loss, {'classes_left_out': cka.left_out()}
