"""The terms of planting, recomputed problem by problem with edits of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.data import batch_indices
from cdjax.errors import InputError
from cdjax.models import Edit
from cdjax.planted.objective import (
    LIVE,
    MEAN,
    MIXED,
    PlantWeights,
    answer_prior,
    plant_batch,
    plant_loss,
)
from cdjax.planted.plan import PlanConfig, draw_plan

B, K, FLOOR = 6, 2, 2.0
TERMS = tuple(vars(PlantWeights()))


@pytest.fixture(scope='module')
def batch():
    dataset = toy.dataset()
    index = batch_indices(np.arange(len(dataset)), B, seed=1, step=0)
    columns = {name: getattr(dataset, name)[index] for name in ('tokens', 'lengths', 'answers')}
    rng = np.random.default_rng(3)
    return columns | plant_batch(dataset.labels['operators'][index], K, toy.L, True, rng)


@pytest.fixture(scope='module')
def plan():
    drawn = draw_plan(PlanConfig(shared=4, specific=6), K, toy.L, toy.F)
    dataset, classes = toy.dataset(), toy.dataset().labels['operators']
    prior = answer_prior(dataset.answers, classes, K, len(toy.tokenizer()))
    return {
        'shared': drawn.shared.astype(np.float32),
        'specific': drawn.specific.astype(np.float32),
        'prior': prior,
    }


def test_each_term_is_what_it_says(batch, plan):
    model = toy.model()
    _, terms = jax.jit(lambda m, b, p: plant_loss(m, b, p, weights=PlantWeights(), floor=FLOOR))(
        model, batch, plan
    )
    answer = jax.jit(lambda m, t, k, c: m(t, edits={'neurons': Edit(k, center=c)}, logits_at=-1)[0])
    neurons = np.asarray(
        model(jnp.asarray(batch['tokens']), capture=('neurons',), logits_at=())[1]['neurons']
    )
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

    expected = {name: [] for name in TERMS}
    for row in range(B):
        k, source = batch['classes'][row], batch['same'][row]
        own, other, lost = circuits[k], circuits[batch['other'][row]], batch['lost'][row]
        part = plan['specific'][k] * lost[:, :1] + plan['shared'] * lost[:, 1:]
        right = batch['answers'][row]
        expected['answer'].append(-said(row, ones[:, 0, 0], mean)[right])
        moved = said(row, 1 - own, neurons[:, source])
        expected['interchange'].append(-moved[batch['answers'][source]])
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
