import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import toy_study as toy

from cdjax.inference.attribution_vectors import attribution_vectors
from cdjax.inference.means import neuron_means
from cdjax.models import Edit


@functools.cache
def fill():
    return neuron_means(toy.model(), toy.dataset())


def test_a_vector_is_deviations_times_slopes_of_the_models_own_choice():
    some = toy.dataset()[:5]
    found = attribution_vectors(toy.model(), some, fill())

    def chosen(shift, tokens):
        logits, activations = toy.model()(
            tokens[None], edits={'neurons': Edit(shift=shift)}, capture=('neurons',), logits_at=-1
        )
        return logits[0, jnp.argmax(logits[0])] - logits[0].mean(), activations['neurons']

    slopes = jax.jit(jax.grad(chosen, has_aux=True))
    for tokens, vector in zip(some.tokens, found, strict=True):
        gradient, a = slopes(jnp.zeros((toy.L, 1, toy.T, toy.F)), tokens)
        away = np.abs(np.asarray(a)[:, 0] - fill())
        expected = np.log1p((away * np.abs(np.asarray(gradient)[:, 0])).sum(axis=1)).ravel()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_nothing_of_the_answers_is_read():
    data = toy.dataset()
    others = dataclasses.replace(
        data, answers=data.answers[::-1], counterfactual_answers=data.answers[::-1]
    )
    vectors = [attribution_vectors(toy.model(), problems, fill()) for problems in (data, others)]
    np.testing.assert_array_equal(*vectors)


def test_folded_vectors_keep_what_lies_close_together():
    whole = attribution_vectors(toy.model(), toy.dataset(), fill())
    folded = attribution_vectors(toy.model(), toy.dataset(), fill(), width=48)
    assert whole.shape[1] == toy.L * toy.F
    assert folded.shape[1] == 48
    np.testing.assert_allclose(np.linalg.norm(folded, axis=1), 1, rtol=1e-5)
    near = lambda v: (v @ v.T)[np.triu_indices(len(v), 1)]
    assert np.corrcoef(near(whole), near(folded))[0, 1] > 0.6
