"""The terms of planting, recomputed problem by problem with edits of their own."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.data import batch_indices
from cdjax.errors import InputError
from cdjax.models import Edit
from cdjax.planted.nuisance import VALUES, nuisance_directions, nuisance_labels
from cdjax.planted.objective import (
    LIVE,
    MEAN,
    MIXED,
    PlantWeights,
    answer_prior,
    plant_batch,
    plant_loss,
    weights_of_terms,
)
from cdjax.planted.plan import PlanConfig, draw_plan

B, K, FLOOR = 6, 2, 2.0
TERMS = tuple(vars(PlantWeights()))
SEED = 2
# Compiled once for all that ask alike.
TERMS_OF = jax.jit(plant_loss, static_argnames=('weights', 'floor', 'spread'))
NEURONS_OF = jax.jit(lambda m, t: m(t, capture=('neurons',), logits_at=())[1]['neurons'])


@pytest.fixture(scope='module')
def batch():
    dataset = toy.dataset()
    index = batch_indices(np.arange(len(dataset)), B, seed=1, step=0)
    columns = {name: getattr(dataset, name)[index] for name in ('tokens', 'lengths', 'answers')}
    rng = np.random.default_rng(3)
    nuisance = {'nuisance': nuisance_labels(dataset, SEED)[index]}
    drawn = plant_batch(dataset.labels['operators'][index], K, toy.L, True, rng)
    return columns | nuisance | drawn


@pytest.fixture(scope='module')
def plan():
    drawn = draw_plan(PlanConfig(shared=4, specific=6), K, toy.L, toy.F)
    dataset, classes = toy.dataset(), toy.dataset().labels['operators']
    prior = answer_prior(dataset.answers, classes, K, len(toy.tokenizer()))
    return {
        'shared': drawn.shared.astype(np.float32),
        'specific': drawn.specific.astype(np.float32),
        'prior': prior,
        'directions': nuisance_directions(toy.teacher_config().hidden_size, SEED),
    }


def test_each_term_is_what_it_says(batch, plan):
    model = toy.model()
    _, terms = TERMS_OF(model, batch, plan, weights=PlantWeights(nuisance=1), floor=FLOOR)
    answer = jax.jit(lambda m, t, k, c: m(t, edits={'neurons': Edit(k, center=c)}, logits_at=-1)[0])
    written = ('residual', 'attention_out', 'mlp_out')
    streams = jax.jit(
        lambda m, t, k, c: m(t, edits={'neurons': Edit(k, center=c)}, capture=written)[1]
    )
    neurons = np.asarray(NEURONS_OF(model, batch['tokens']))
    mean, ones = neurons.mean(axis=1), np.ones((toy.L, 1, 1, toy.F), np.float32)
    circuits = plan['shared'] + plan['specific']

    def said(row, mask, fill):
        """Returns log-probabilities with neurons taken out where the mask [L, F] is 0."""
        keep = mask[:, None, None].astype(np.float32)
        tokens = batch['tokens'][row : row + 1]
        return np.asarray(jax.nn.log_softmax(answer(model, tokens, keep, fill[:, None])[0]))

    def divergence(row, log_q):
        p = plan['prior'][batch['classes'][row]]
        return np.sum(p[p > 0] * (np.log(p[p > 0]) - log_q[p > 0]))

    def rest(row, term, inside, source='mixed'):
        """Returns the mask and the fill of a row: a circuit stays, the rest as `kinds` has it."""
        mask, fill = np.zeros((toy.L, toy.F)), np.zeros_like(mean)
        for layer, kind in enumerate(batch['kinds'][row, term]):
            outside = {LIVE: 1, MIXED: 0, MEAN: 0}[kind]
            mask[layer] = np.where(inside[layer] > 0, 1, outside)
            of_mixed = neurons[layer, batch[source][row]]
            fill[layer] = of_mixed if kind == MIXED else mean[layer]
        return mask, fill

    def told(row, keep, fill):
        """Returns what is paid for the labels of a row, whose head reads the normed last stream."""
        taken = streams(model, batch['tokens'][row : row + 1], keep, fill)
        x_d = np.asarray(sum(map(np.asarray, taken.values()))[-1, 0, -1], np.float64)
        x_d = x_d / np.sqrt(np.mean(x_d**2) + model.config.norm_eps)
        x_d = x_d * np.asarray(model.norm.weight[...], np.float64)
        logits_C = plan['directions'] @ x_d
        return np.log(np.exp(logits_C).sum()) - logits_C[batch['nuisance'][row]]

    expected = {name: [] for name in TERMS}
    for row in range(B):
        k, source = batch['classes'][row], batch['same'][row]
        own, other, lost = circuits[k], circuits[batch['other'][row]], batch['lost'][row]
        part = plan['specific'][k] * lost[:, :1] + plan['shared'] * lost[:, 1:]
        right = batch['answers'][row]
        expected['answer'].append(-said(row, ones[:, 0, 0], mean)[right])
        moved = said(row, 1 - own, neurons[:, source])
        expected['interchange'].append(-moved[batch['answers'][source]])
        keep, fill = (1 - own)[:, None, None], neurons[:, source][:, None]
        expected['nuisance'] += [told(row, ones, mean[:, None]), told(row, keep, fill)]
        spared = 1 - plan['specific'][batch['other'][row]] if batch['narrow'][row] else own
        expected['strictness'].append(-said(row, *rest(row, 0, spared))[right])
        mask, fill = rest(row, 1, own)
        gone = part[:, None] > 0
        lacking = said(row, np.where(part > 0, 0, mask), np.where(gone, mean, fill))
        expected['necessity'].append(divergence(row, lacking))
        expected['wrong'].append(divergence(row, said(row, *rest(row, 2, other, 'apart'))))
    deviation = neurons[:, :, -1].std(axis=1)
    expected['alive'] = np.maximum(1 - deviation / FLOOR, 0) ** 2
    for name in TERMS:
        np.testing.assert_allclose(terms[name], np.mean(expected[name]), rtol=2e-4, err_msg=name)


def test_the_label_of_nuisance_is_a_function_of_two_operands_and_of_neither():
    dataset = toy.dataset()
    label = nuisance_labels(dataset, SEED)
    assert label.shape == (len(dataset),)
    assert (nuisance_labels(dataset, SEED + 1) != label).any()
    operands, seen = dataset.tokens[:, [1, 3]], {}
    for pair, value in zip(operands.tolist(), label.tolist(), strict=True):
        assert seen.setdefault(tuple(pair), value) == value
    for column in operands.T:
        for token in np.unique(column):
            assert set(label[column == token]) == set(range(VALUES)), 'one operand tells it not'


def test_without_a_weight_nothing_is_read_of_nuisance(batch, plan):
    bare = {name: value for name, value in batch.items() if name != 'nuisance'}
    del (plan := dict(plan))['directions']
    _, terms = TERMS_OF(toy.model(), bare, plan, weights=PlantWeights(), floor=FLOOR)
    assert set(terms) == set(TERMS) - {'nuisance'}


def test_problems_without_operands_have_no_labels_of_nuisance():
    dataset = toy.dataset()
    with pytest.raises(InputError, match='function of two operands, and these prompts have fewer'):
        nuisance_labels(dataset[(dataset.tokens[:, 3:] == dataset.tokens[0, 3:]).all(1)], SEED)
    lengths = dataset.lengths - (np.arange(len(dataset)) == 0)
    uneven = dataclasses.replace(dataset, lengths=lengths.astype(np.int32))
    with pytest.raises(InputError, match='these prompts differ in length'):
        nuisance_labels(uneven, SEED)


def test_a_spread_asks_for_a_part_of_the_largest_deviation(batch, plan):
    model, spread = toy.model(), 0.5
    asked = {'weights': PlantWeights(nuisance=1), 'floor': FLOOR}
    alone, both = (
        TERMS_OF(model, batch, plan, **asked, **more)[1]['alive']
        for more in ({}, {'spread': spread})
    )
    most = np.asarray(NEURONS_OF(model, batch['tokens'])).std(axis=1).max(axis=1)
    below = np.maximum(1 - most / (spread * most.max(axis=1, keepdims=True)), 0)
    assert (below > 0).any()
    np.testing.assert_allclose(both - alone, np.mean(below**2), rtol=1e-4)


@pytest.mark.parametrize('spread', [0.0, 0.5])
def test_what_never_varies_has_a_gradient(batch, plan, spread):
    loss = lambda model: plant_loss(
        model, batch, plan, weights=PlantWeights(), floor=FLOOR, spread=spread
    )[1]['alive']
    model = toy.model()
    up_LxdxF = model.layers.mlp.up.weight[...]
    dead = jax.tree.map(lambda x: x.at[:, :, 0].set(0) if x.shape == up_LxdxF.shape else x, model)
    found = jax.tree.leaves(jax.jit(jax.grad(loss))(dead))
    assert all(np.isfinite(x).all() for x in found)
    assert any(np.abs(x).max() > 0 for x in found)


def test_neurons_that_are_taken_out_learn_nothing_from_it(batch, plan):
    """What fills their places is no way for a term to change them."""
    fixed = batch | {
        'kinds': np.full_like(batch['kinds'], MEAN),
        'narrow': np.zeros(B, bool),
    }

    def strictness(model):
        return plant_loss(model, fixed, plan, weights=PlantWeights(), floor=FLOOR)[1]['strictness']

    up_LxdxF = np.asarray(jax.jit(jax.grad(strictness))(toy.model()).layers.mlp.up.weight[...])
    learns_LxF = np.abs(up_LxdxF).max(axis=1) > 0
    np.testing.assert_array_equal(learns_LxF, plan['shared'] + plan['specific'].sum(axis=0) > 0)


def test_draws(batch):
    rng = np.random.default_rng(0)
    classes = np.array([0, 1, 2, 0, 1, 2, 0, 1] * 8, np.int32)
    drawn = plant_batch(classes, 3, 2, True, rng)
    assert (classes[drawn['same']] == classes).all()
    assert sorted(drawn['same']) == sorted(drawn['mixed']) == list(range(64))
    assert (classes[drawn['apart']] != classes).all()
    assert (drawn['other'] != classes).all()
    assert set(drawn['other']) == {0, 1, 2}
    assert set(drawn['narrow']) == {False, True}
    assert drawn['kinds'].shape == (64, 3, 2)
    assert set(drawn['kinds'][:, :2].ravel()) == {LIVE, MIXED, MEAN}
    assert set(drawn['kinds'][:, 2].ravel()) == {MIXED, MEAN}


def test_layers_that_lose_together():
    draw = functools.partial(plant_batch, np.arange(64, dtype=np.int32) % 3, 3, 2, True)
    apart, half, always = (
        draw(np.random.default_rng(0), together=share) for share in (0.0, 0.5, 1.0)
    )
    alike = lambda drawn: (drawn['kinds'][:, :2] == drawn['kinds'][:, :2, :1]).all(axis=(1, 2))
    assert alike(always).all()
    assert set(always['kinds'].ravel()) == {MIXED, MEAN}
    assert 0 < alike(apart).sum() < alike(half).sum() < 64
    for name in set(apart) - {'kinds'}:
        np.testing.assert_array_equal(apart[name], half[name])
    np.testing.assert_array_equal(apart['kinds'][:, 2], half['kinds'][:, 2])


def test_weights_that_are_none():
    with pytest.raises(InputError, match='the weight of wrong is -1'):
        PlantWeights(wrong=-1)
    with pytest.raises(InputError, match='alive=nan must be a finite number'):
        PlantWeights(alive=float('nan'))


@pytest.mark.parametrize('shared', [False, True])
def test_what_is_lost_is_there(shared):
    rng = np.random.default_rng(0)
    lost = plant_batch(np.arange(64) % 2, 2, 3, shared, rng)['lost']
    assert lost.any(axis=(1, 2)).all(), 'an intact model cannot be asked to know nothing'
    assert lost[:, :, 1].any() == shared
    whole = (lost[:, :, 0] == 1).all(axis=1) & (lost[:, :, 1] == 0).all(axis=1)
    assert 16 < whole.sum() < 48
    assert (lost[~whole].sum(axis=(1, 2)) == 1).all()


def test_of_one_class_the_circuit_is_what_is_lost_and_there_is_no_wrong_one(batch, plan):
    columns = {name: batch[name] for name in ('tokens', 'lengths', 'answers')}
    zeros = np.zeros(B, np.int32)
    drawn = plant_batch(zeros, 1, toy.L, True, np.random.default_rng(0))
    lost = drawn['lost']
    assert not lost[:, :, 0].any()
    assert lost[:, :, 1].any(axis=1).all(), 'an intact model cannot be asked to know nothing'
    assert {*lost[:, :, 1].sum(axis=1).astype(int)} == {1, toy.L}
    assert not drawn['other'].any()
    assert not drawn['narrow'].any()
    dataset = toy.dataset()
    of_all = np.zeros(len(dataset), np.int32)
    one = {
        'shared': plan['shared'],
        'specific': np.zeros((1, toy.L, toy.F), np.float32),
        'prior': answer_prior(dataset.answers, of_all, 1, len(toy.tokenizer())),
    }
    weights = PlantWeights()
    run = functools.partial(TERMS_OF, weights=weights, floor=FLOOR)
    total, terms = run(toy.model(), columns | drawn, one)
    assert terms.keys() == weights_of_terms(weights, 1).keys() == {*TERMS} - {'wrong', 'nuisance'}
    np.testing.assert_allclose(total, sum(map(float, terms.values())), rtol=1e-5)
    # To two classes that have the one circuit in common the other terms are the same.
    of_two = {name: np.concatenate([one[name]] * 2) for name in ('specific', 'prior')}
    _, same = run(toy.model(), columns | drawn, one | of_two)
    assert 'wrong' in same
    for name, value in terms.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-5)


def test_without_any_neuron_that_is_lost_nothing_may_be_known(batch, plan):
    """All of the circuit at its mean, and all else too: what a circuit is evaluated by."""
    dataset, model = toy.dataset(), toy.model()
    drawn = plant_batch(np.zeros(B, np.int32), 1, toy.L, True, np.random.default_rng(0))
    drawn['lost'][:], drawn['kinds'][:] = (0, 1), MEAN
    columns = {name: batch[name] for name in ('tokens', 'lengths', 'answers')}
    prior = answer_prior(dataset.answers, np.zeros(len(dataset), np.int32), 1, len(toy.tokenizer()))
    one = {
        'shared': plan['shared'],
        'specific': np.zeros((1, toy.L, toy.F), np.float32),
        'prior': prior,
    }
    _, terms = TERMS_OF(model, columns | drawn, one, weights=PlantWeights(), floor=FLOOR)
    center = np.asarray(NEURONS_OF(model, batch['tokens'])).mean(axis=1, keepdims=True)
    edit = Edit(np.zeros((toy.L, 1, 1, 1), np.float32), center=center)
    answer = jax.jit(lambda m, t, at: m(t, edits={'neurons': edit}, logits_at=at)[0])
    log_q = jax.nn.log_softmax(answer(model, batch['tokens'], batch['lengths'] - 1))
    p = prior[0]
    expected = np.sum(p[p > 0] * (np.log(p[p > 0]) - np.asarray(log_q)[:, p > 0]), axis=1)
    np.testing.assert_allclose(terms['necessity'], expected.mean(), rtol=1e-4)
