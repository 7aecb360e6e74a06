"""Losses of distillation: soft targets, features, and the sum with aligned activations.

The teacher's gradient is stopped in all of them, the student's in none. Losses are means over
valid rows, in nats. Answers of A tokens have logits [N, A, V], each behind the right tokens before
it; their loss is the mean over problems of the mean over the tokens of each, so that a problem
counts the same however long its answer is, and with one token is what it is of [N, V].
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Self

import chex
import jax
import jax.numpy as jnp

from cdjax.losses.alignment import ActivationPair, alignment_loss
from cdjax.losses.cka import MIN_ROWS
from cdjax.losses.numerics import (
    check_choice,
    float32,
    mean_answers,
    safe_log,
    softmax_kl,
    valid_rows,
    weighted_sum,
)


def _check_temperature(temperature: float | jax.Array) -> None:
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f'temperature={temperature} must be a number above 0')


def kd_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    direction: str = 'forward',
    where: jax.Array | None = None,
) -> jax.Array:
    """Returns the knowledge-distillation loss T² KL of softened predictions.

    Forward, `T² mean_i KL(softmax(t_i/T) ‖ softmax(s_i/T))` (Hinton et al. 2015, arXiv
    1503.02531), covers all that the teacher finds likely; reverse, `T² mean_i KL(student ‖
    teacher)` (Gu et al. 2023, arXiv 2306.08543), settles on a part of it. T² keeps the size of
    the gradient when T changes.

    Args:
        student_logits: [N, V], or [N, A, V] of answers of several tokens, any float dtype.
        teacher_logits: of the same shape; forward, -inf marks tokens that cannot be.
        temperature: T > 0.
        direction: 'forward' or 'reverse'.
        where: [N] bool, False for padding rows; of several tokens [N, A], of each token.

    Returns:
        A float32 scalar >= 0.

    Raises:
        ValueError: if the direction is neither, or a temperature given as a number is not > 0.
    """
    check_choice('direction', direction, ('forward', 'reverse'))
    _check_temperature(temperature)
    chex.assert_rank(student_logits, {2, 3})
    chex.assert_equal_shape([student_logits, teacher_logits])
    student, teacher = float32(student_logits, jax.lax.stop_gradient(teacher_logits))
    student = valid_rows(student, where) / temperature
    teacher = valid_rows(teacher, where) / temperature
    pair = (teacher, student) if direction == 'forward' else (student, teacher)
    return temperature**2 * mean_answers(softmax_kl(*pair), where)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopKLogits:
    """A teacher's k most likely tokens, small enough to store for every problem.

    Attributes:
        log_probabilities: [N, k] float32, of the softmax at `temperature` over all V tokens; of
            answers of several tokens [N, A, k].
        indices: int32 token ids of the same shape.
        temperature: T of the softmax. It cannot be changed afterwards: the mass outside the k
            at another temperature is not known.
    """

    log_probabilities: jax.Array
    indices: jax.Array
    temperature: float = dataclasses.field(default=1.0, metadata={'static': True})

    @classmethod
    def from_logits(cls, logits: jax.Array, k: int, *, temperature: float = 1.0) -> Self:
        """Returns the top k of teacher logits [N, V] or [N, A, V].

        Raises:
            ValueError: if k is not in 1..V, or the temperature is not > 0.
        """
        chex.assert_rank(logits, {2, 3})
        _check_temperature(temperature)
        if not 1 <= k <= logits.shape[-1]:
            raise ValueError(f'k={k} must be from 1 to the number of tokens, {logits.shape[-1]}')
        (logits,) = float32(logits)
        values, indices = jax.lax.top_k(jax.nn.log_softmax(logits / temperature), k)
        return cls(values, indices.astype(jnp.int32), temperature)


def topk_kd_loss(
    student_logits: jax.Array, teacher: TopKLogits, *, where: jax.Array | None = None
) -> jax.Array:
    """Returns the forward KD loss from a teacher of which only the top k tokens were stored.

    KL between distributions over k + 1 outcomes: the k tokens, and all others together. It is a
    lower bound of the full KL, and equals it at k = V. Renormalising the k instead would tell
    the student that the others are impossible.

    Args:
        student_logits: [N, V] or [N, A, V], any float dtype.
        teacher: the stored tokens of the same N rows.
        where: [N] bool, False for padding rows; of several tokens [N, A], of each token.

    Returns:
        A float32 scalar >= 0, with the factor T² of `kd_loss`.
    """
    chex.assert_rank(student_logits, {2, 3})
    *rows, vocabulary = student_logits.shape
    k = teacher.indices.shape[-1]
    chex.assert_shape([teacher.indices, teacher.log_probabilities], (*rows, k))
    (student,) = float32(student_logits)
    log_q_all = jax.nn.log_softmax(valid_rows(student, where) / teacher.temperature)
    log_p = valid_rows(jax.lax.stop_gradient(teacher.log_probabilities), where)
    log_q = jnp.take_along_axis(log_q_all, teacher.indices, axis=-1)
    p = jnp.exp(log_p)
    possible = p > 0
    gap = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    kl = jnp.sum(p * gap, axis=-1)
    if k < vocabulary:
        flat = teacher.indices.reshape(-1, k)
        kept = jnp.zeros((len(flat), vocabulary), bool)
        kept = kept.at[jnp.arange(len(flat))[:, None], flat].set(True).reshape(*rows, vocabulary)
        rest = jnp.maximum(1 - p.sum(axis=-1), 0.0)
        log_rest = jax.nn.logsumexp(jnp.where(kept, -jnp.inf, log_q_all), axis=-1)
        kl = kl + rest * (safe_log(rest) - log_rest)
    return teacher.temperature**2 * mean_answers(kl, where)


# Where the answers that a student learns may be from: the teacher's distribution, as its student
# covers it or settles in it, or the labels.
TASKS = ('kd', 'reverse_kd', 'cross_entropy')


def distillation_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array | TopKLogits | None,
    pairs: Sequence[ActivationPair | tuple[jax.Array, jax.Array]],
    *,
    weight: float | jax.Array,
    temperature: float | jax.Array = 1.0,
    labels: jax.Array | None = None,
    answered: jax.Array | None = None,
    direction: str = 'forward',
    where: jax.Array | None = None,
    similarity: str | Callable[..., jax.Array] = 'cka',
    min_count: int = MIN_ROWS,
    debiased: bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of circuit distillation, `task + λ Σ_pairs (1 - CKA)`, and its terms.

    The task is KD from the teacher's logits, or cross-entropy where labels are given.

    Args:
        student_logits: [N, V] at the answer position, or [N, A, V] at those of A tokens.
        teacher_logits: likewise, or a stored `TopKLogits`, whose temperature must be the same;
            not read where labels are given, and may be None then.
        pairs: (student [N, P], teacher [N, Q]) activations, or `ActivationPair`s.
        weight: λ of the alignment.
        temperature: T of the KD.
        labels: [N] int32 answers, or [N, A].
        answered: [N, A] bool, the tokens that an answer has; all of them if None.
        direction: of the KD, see `kd_loss`; forward where the teacher is a `TopKLogits`.
        where: [N] bool, False for padding rows.
        similarity: in the place of CKA, see `alignment_loss`.
        min_count: the least number of rows of a class.
        debiased: HSIC₁ rather than HSIC₀.

    Returns:
        The loss, and float32 terms keyed `task`, `alignment` (the unweighted sum over pairs) and
        `classes_left_out` (summed over pairs).

    Raises:
        ValueError: if there are neither labels nor teacher logits, if the stored temperature is
            another, and as `kd_loss` and `alignment_loss`.
    """
    counts = _tokens_that_count(student_logits, where, answered)
    if labels is not None:
        task = cross_entropy(student_logits, labels, where=counts)
    elif teacher_logits is None:
        raise ValueError('the task needs teacher_logits or labels, and both are None')
    elif isinstance(teacher_logits, TopKLogits):
        stored_at = teacher_logits.temperature
        if not isinstance(temperature, int | float) or temperature != stored_at:
            raise ValueError(
                f'temperature={temperature} differs from the {stored_at} that the teacher was '
                'stored at; store it again, or pass that number'
            )
        if direction != 'forward':
            raise ValueError(f'direction={direction!r} needs the logits of all tokens')
        task = topk_kd_loss(student_logits, teacher_logits, where=counts)
    else:
        task = kd_loss(
            student_logits,
            teacher_logits,
            temperature=temperature,
            direction=direction,
            where=counts,
        )
    alignment = left_out = jnp.float32(0.0)
    for pair in pairs:
        pair = pair if isinstance(pair, ActivationPair) else ActivationPair(*pair)
        loss, told = alignment_loss(
            pair, similarity=similarity, where=where, min_count=min_count, debiased=debiased
        )
        alignment, left_out = alignment + loss, left_out + told['classes_left_out']
    terms = {'task': task, 'alignment': alignment}
    total = weighted_sum(terms, {'task': 1.0, 'alignment': weight})
    return total, terms | {'classes_left_out': left_out}


def _tokens_that_count(
    logits: jax.Array, where: jax.Array | None, answered: jax.Array | None
) -> jax.Array | None:
    """Returns the `where` of a task: valid rows, of several tokens those that answers have."""
    if logits.ndim == 2:
        return where
    if where is None:
        return answered
    rows = (jnp.asarray(where) > 0.5)[:, None]
    return jnp.broadcast_to(rows, logits.shape[:2]) if answered is None else rows & answered


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Returns the mean cross-entropy `-log softmax(logits_i)[label_i]`.

    Args:
        logits: [N, V], or [N, A, V] of answers of several tokens, any float dtype.
        labels: [N] or [N, A] int token ids.
        where: [N] bool, False for padding rows; of several tokens [N, A], of each token.

    Returns:
        A float32 scalar >= 0.
    """
    chex.assert_rank([logits, labels], [{2, 3}, logits.ndim - 1])
    (logits,) = float32(logits)
    log_q = jax.nn.log_softmax(valid_rows(logits, where))
    return mean_answers(-jnp.take_along_axis(log_q, labels[..., None], axis=-1)[..., 0], where)
