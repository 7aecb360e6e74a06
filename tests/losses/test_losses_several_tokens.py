"""Losses of answers of several tokens against loops over problems and tokens, in float64."""

import functools

import jax
import jax.numpy as jnp
import loss_references as reference
import numpy as np
import pytest
from quick_jit import quick_jit

from cdjax import losses

N, A, V = 8, 2, 9
# Some answers are of one token, some of two; every other row below is padding.
ANSWERED = np.arange(A)[None] < np.array([2, 1, 2, 2, 1, 2, 1, 2])[:, None]
ALL, HALF = np.ones(N, bool), np.arange(N) % 2 == 0


def tasks(student, teacher, labels, answered=None, where=None):
    """Each task by its name, with the gradient to the student."""
    top = losses.TopKLogits.from_logits(teacher, 3, temperature=2.0)
    found = {}
    for name, taught, options in (
        ('forward', teacher, {}),
        ('reverse', teacher, {'direction': 'reverse'}),
        ('top 3', top, {}),
        ('labels', None, {'labels': labels}),
    ):

        def loss(student, taught=taught, options=options):
            counted = {'answered': answered, 'where': where}
            return losses.distillation_loss(
                student, taught, [], weight=0.0, temperature=2.0, **counted, **options
            )[0]

        found[name] = jax.value_and_grad(loss)(student)
    return found


measure = quick_jit(tasks)


def draw():
    rng = np.random.default_rng(0)
    student, teacher = 3 * rng.normal(size=(2, N, A, V)).astype(np.float32)
    return student, teacher, rng.integers(V, size=(N, A))


def of_token(student, teacher, label):
    """Each task at one token of one problem."""
    p, q = (reference.softmax(logits.astype(float) / 2) for logits in (teacher, student))
    kept = np.argsort(-p)[:3]
    as_one = [np.append(x[kept], 1 - x[kept].sum()) for x in (p, q)]
    return {
        'forward': 4 * reference.kl(p, q),
        'reverse': 4 * reference.kl(q, p),
        'top 3': 4 * reference.kl(*as_one),
        'labels': -np.log(reference.softmax(student.astype(float))[label]),
    }


@pytest.mark.parametrize('where', [ALL, HALF], ids=['all rows', 'padding rows'])
def test_a_problem_counts_the_same_however_long_its_answer_is(where):
    student, teacher, labels = draw()
    missing = ~ANSWERED | ~where[:, None]
    expected = dict.fromkeys(('forward', 'reverse', 'top 3', 'labels'), 0.0)
    for n in np.flatnonzero(where):
        for a in range(ANSWERED[n].sum()):
            for name, value in of_token(student[n, a], teacher[n, a], labels[n, a]).items():
                expected[name] += value / ANSWERED[n].sum() / where.sum()
    student[missing] = teacher[missing] = np.nan
    labels[missing] = V
    measured = jax.device_get(measure(student, teacher, labels, ANSWERED, where))
    for name, (value, slope) in measured.items():
        assert float(value) == pytest.approx(expected[name], rel=1e-4), name
        assert np.isfinite(slope).all()
        assert (slope[missing] == 0).all()
        assert (abs(slope[~missing]).max(axis=1) > 0).all()


def test_an_answer_of_one_token_is_what_it_was():
    """To the last bit, operation by operation: a program may sum in another order."""
    student, teacher, labels = (jnp.asarray(x[:, 0]) for x in draw())
    for task in ({'teacher_logits': teacher}, {'teacher_logits': None, 'labels': labels}):
        loss = functools.partial(losses.distillation_loss, pairs=[], weight=0.0)
        beside = {name: None if x is None else x[:, None] for name, x in task.items()}
        one = loss(student[:, None], **beside, answered=jnp.ones((N, 1), bool))[0]
        assert loss(student, **task)[0] == one
