"""A toy distillation: its share, its circuits, and its terms computed from a batch and by hand."""

import jax
import numpy as np
import toy_study as toy

from cdjax.distillation.alignment import Alignment
from cdjax.training.distillation import (
    DistillationConfig,
    distillation_terms,
)
from cdjax.training.optimizer import OptimizerConfig

STEPS = 20
CONFIG = DistillationConfig(OptimizerConfig(STEPS, 1e-2, warmup_steps=1), batch_size=32)
SHARE = toy.dataset()[toy.rows().share]
CLASSES = SHARE.labels['operators']
PAIRS = ((0, 1), (1, 0))


def masks(width, seed):
    return np.random.default_rng(seed).random((2, toy.L, width)) < 0.5


CIRCUITS = Alignment(PAIRS, CLASSES, masks(toy.F, 0), masks(toy.F // 2, 1))


def debiased_cka(x, y):
    """CKA from HSIC₁ of Song et al. (2012), by its definition, in float64."""
    n = len(x)

    def hsic(K, L):
        K, L = K * (1 - np.eye(n)), L * (1 - np.eye(n))
        ones = np.ones(n)
        return (
            np.trace(K @ L)
            + K.sum() * L.sum() / ((n - 1) * (n - 2))
            - 2 * ones @ K @ L @ ones / (n - 2)
        ) / (n * (n - 3))

    K, L = x @ x.T, y @ y.T
    return hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))


def make_batch(rows, teacher_neurons, teacher_logits, classes=None):
    data = toy.dataset()[rows]
    batch = {
        'tokens': data.tokens,
        'lengths': data.lengths,
        'teacher_logits': teacher_logits,
        'teacher_activations': teacher_neurons,
    }
    return batch if classes is None else batch | {'classes': classes.astype(np.int32)}


@jax.jit
def whole(model, tokens):
    logits, activations = model(tokens, capture=('neurons',), logits_at=-1)
    return logits, activations['neurons'][:, :, -1]


def terms_of(batch, alignment):
    jitted = jax.jit(lambda *args: distillation_terms(*args, (), CONFIG)[1])
    student = toy.model(seed=1, student=True)
    return jitted(student, batch, alignment.placed(toy.one_device()))


def by_hand(problems, classes, alignment):
    """The task and the alignment of the first student, in float64, class by class."""
    (student_logits, student), (teacher_logits, teacher) = (
        [np.asarray(x, np.float64) for x in whole(model, problems.tokens)]
        for model in (toy.model(seed=1, student=True), toy.model())
    )

    def log_softmax(x):
        x = x / CONFIG.temperature
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    p, q = log_softmax(teacher_logits), log_softmax(student_logits)
    task = (np.exp(p) * (p - q)).sum(-1).mean() * CONFIG.temperature**2
    expected = 0.0
    for s, t in alignment.pairs:
        by_class = []
        for k in range(2):
            x, y = student[s][classes == k], teacher[t][classes == k]
            if alignment.student_masks is not None:
                x = x[:, alignment.student_masks[k, s]]
            by_class.append(debiased_cka(x, y[:, alignment.teacher_masks[k, t]]))
        expected += 1 - np.mean(by_class)
    return task, expected
