"""What is told of single neurons, of classes and of layers, against what is computed by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.circuit import Circuit
from cdjax.losses import linear_cka
from cdjax.losses.cka import u_center
from cdjax.losses.numerics import center
from cdjax.models import Edit, LlamaConfig
from cdjax.studies.layer_similarity import layer_cka
from cdjax.studies.neurons import bins_of, choose_neurons, direct_effects, read_operands
from cdjax.studies.problems import what_is_shared


def circuit_of(scores):
    scores = np.asarray(scores, np.float32)
    _, L, F = scores.shape
    return Circuit(scores > 0, scores, np.zeros((L, 1, F)), np.zeros(3, np.int32))


def test_neurons_of_a_class_are_those_that_no_other_class_wants():
    # Of four neurons: 3 above all in class 0, 0 in class 1; 1 is what both want.
    scores = [[[0.0, 5.0, -9.0, 4.0]], [[2.0, 5.0, -9.0, -4.0]]]
    assert choose_neurons(circuit_of(scores))[:1] == [(0, 3, 0)]
    chosen = choose_neurons(circuit_of(np.tile(scores, (1, 1, 30))))
    of = lambda k: [neuron % 4 for _, neuron, name in chosen if name == k]
    assert (set(of(0)), set(of(1)), set(of(None))) == ({3}, {0}, {1})
    assert len(chosen) == len(set(chosen)) == 12
    assert choose_neurons(circuit_of([[[0.0, 3.0], [4.0, 1.0]]])) == [
        (1, 0, None),
        (0, 1, None),
        (1, 1, None),
    ], 'what is in no circuit does not stand out in it'


def test_operands_are_the_numbers_that_vary():
    table = read_operands(['3+4 mod 7=', '13+0 mod 7=', '3+5 mod 7='])
    np.testing.assert_array_equal(table, [[3, 4], [13, 0], [3, 5]])
    assert read_operands(['3+4=', '1+2+3=']).shape == (2, 0)


def test_bins_are_values_or_ranges_of_equal_width():
    index, names = bins_of(np.array([7, 3, 7]))
    assert (index.tolist(), names) == ([1, 0, 1], ['3', '7'])
    values = np.arange(0, 100)
    index, names = bins_of(values)
    assert (names[0], names[-1], len(names)) == ('0–2', '99–99', 34)
    np.testing.assert_array_equal(index, values // 3)


@pytest.mark.parametrize('tied', [True, False])
def test_the_direct_effect_is_that_of_a_unit_on_the_last_residual(tied):
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=6, num_layers=2, num_heads=2,
        num_kv_heads=1, head_dim=4, tie_embeddings=tied,
    )  # fmt: skip
    model = toy.random_model(config)
    at, answers = np.array([[1, 4]]), np.array([3, 5, 9])
    found = direct_effects(types.SimpleNamespace(teacher=model, mesh=toy.one_device()), at, answers)
    # In the last layer the only path is the direct one: hold the last norm's scale, by its limit.
    tokens, of_unit = np.array([[1, 2, 3]]), np.zeros((2, 1, 1, 6), np.float32)
    of_unit[1, :, :, 4] = 1e4  # the norm divides by the residual, which is then the neuron's alone

    @jax.jit
    def logits(model, shift):
        return model(tokens, edits={'neurons': Edit(shift=shift)}, logits_at=-1)[0][0, answers]

    grown = np.asarray(logits(model, of_unit)) - np.asarray(logits(model, -of_unit))
    grown = grown - grown.mean()
    np.testing.assert_allclose(
        grown / np.abs(grown).max(), found[0] / np.abs(found[0]).max(), atol=2e-3
    )


def test_layers_are_compared_by_debiased_cka():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(20, 5)).astype(np.float32) for _ in range(3)]
    layers[2] = 3 * layers[0] @ np.linalg.qr(rng.normal(size=(5, 5)))[0].astype(np.float32)
    ones = jnp.ones(20)

    @jax.jit
    def grams_of(layers):
        centred = [center(x, ones) for x in layers]
        return jnp.stack([u_center(x @ x.T, ones) for x in centred])

    grams, cka = grams_of(layers), jax.jit(linear_cka)
    found = np.array(layer_cka(grams[:2], grams))
    expected = [[cka(x, y) for y in layers] for x in layers[:2]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found[0, 2] == pytest.approx(1, abs=1e-4)


def test_what_a_class_shares_is_what_others_lack():
    problems = types.SimpleNamespace(
        labels={'sign': np.array([0, 0, 1, 1]), 'parity': np.array([0, 1, 0, 1])},
        label_names={'sign': ('+', '−'), 'parity': ('even', 'odd')},
    )
    found = what_is_shared(problems, np.array([False, False, True, True]))
    assert found[0] == {'label': 'sign', 'value': '−', 'part': 1.0, 'part_of_all': 0.5}
    assert found[1]['part'] == found[1]['part_of_all'] == 0.5
    assert what_is_shared(problems, np.zeros(4, bool)) == []
