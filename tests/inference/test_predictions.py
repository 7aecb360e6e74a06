import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import Predictions, predict, predict_rows
from cdjax.models import Edit
from cdjax.parallel.mesh import make_mesh

PASS = {'tokens_per_pass': 64 * toy.T}  # 137 problems in passes of 64


def predict_toy(**options):
    return predict(toy.model(), toy.dataset(), mesh=toy.one_device(), **PASS, **options)


def answer_logits(scale=1.0, shift=0.0):
    """Logits `[N, V]` under an edit of neurons, written out: one program for all of them."""
    tokens = toy.dataset().tokens
    full = lambda part: np.broadcast_to(np.float32(part), (toy.L, *tokens.shape, toy.F))
    return edited_logits(toy.model(), tokens, Edit(full(scale), full(shift)))


@jax.jit
def edited_logits(model, tokens, edit):
    return model(tokens, edits={'neurons': edit}, logits_at=-1)[0]


def expected(logits):
    """Correctness, logit difference and probability by a loop over problems."""
    data, correct, difference, probability = toy.dataset(), [], [], []
    for n, row in enumerate(np.asarray(logits, np.float64)):
        correct.append(row[data.answers[n]] == row.max())
        difference.append(row[data.answers[n]] - row[data.counterfactual_answers[n]])
        probability.append(np.exp(row[data.answers[n]]) / np.exp(row).sum())
    return np.array(correct), np.array(difference), np.array(probability)


def assert_predicts(predictions, logits):
    correct, difference, probability = expected(logits)
    np.testing.assert_array_equal(predictions.correct, correct)
    np.testing.assert_allclose(predictions.logit_difference, difference, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(predictions.probability, probability, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope='module')
def fill():
    return neuron_means(toy.model(), toy.dataset(), mesh=toy.one_device())


@pytest.fixture(scope='module')
def whole():
    return predict_toy()


@pytest.fixture(scope='module')
def circuits():
    rng = np.random.default_rng(0)
    masks = rng.random((toy.K, toy.L, toy.F)) < 0.5
    return masks, rng.integers(toy.K, size=len(toy.dataset()))


def test_the_whole_model(whole):
    assert_predicts(whole, answer_logits())
    assert len(set(whole.logit_difference)) > 100, 'nothing to tell apart'


def test_masks_of_ones_are_the_whole_model(whole, fill):
    ones = np.ones((toy.K, toy.L, toy.F))
    masked = predict_toy(masks=ones, fill=fill)
    np.testing.assert_array_equal(masked.correct, whole.correct)
    np.testing.assert_allclose(masked.logit_difference, whole.logit_difference, atol=2e-5)


def test_masks_of_zeros_replace_every_neuron(fill):
    masked = predict_toy(masks=np.zeros((toy.K, toy.L, toy.F)), fill=fill)
    assert_predicts(masked, answer_logits(0, fill[:, None]))


def manual(masks, classes, values_LxBxTxF):
    """Logits with each class's circuit, one class after the other."""
    data = toy.dataset()
    logits = np.zeros((len(data), len(toy.tokenizer())))
    for k in range(len(masks)):
        keep = masks[k][:, None, None, :].astype(np.float32)
        replaced = (1 - keep) * values_LxBxTxF
        of_class = np.asarray(answer_logits(keep, replaced))
        logits[classes == k] = of_class[classes == k]
    return logits


@pytest.mark.parametrize('ablation', ['zero', 'mean', 'overall_mean', 'counterfactual'])
def test_each_problem_has_its_own_circuit_and_ablation(ablation, circuits, fill, whole):
    masks, classes = circuits
    data = toy.dataset()
    if ablation == 'counterfactual':
        values = jax.jit(lambda m, t: m(t, capture=('neurons',), logits_at=-1)[1]['neurons'])(
            toy.model(), data.counterfactual_tokens
        )
    else:
        values = np.zeros((toy.L, 1, toy.T, toy.F), np.float32)
        if ablation != 'zero':
            values += fill[:, None]
        if ablation == 'overall_mean':
            for position in range(toy.T):
                values[:, :, position] = sum(fill[:, None, t] for t in range(toy.T)) / toy.T
    # zero ablation must not read the fill that a study passes on to all kinds
    predictions = predict_toy(masks=masks, classes=classes, ablation=ablation, fill=fill)
    assert_predicts(predictions, manual(masks, classes, values))
    assert np.abs(predictions.logit_difference - whole.logit_difference).max() > 0.01


@pytest.mark.parametrize('shape', [(8, 1), (2, 4)])
def test_eight_devices_agree_with_one(shape, circuits, fill):
    masks, classes = circuits
    mesh = make_mesh(*shape)
    model = toy.model(mesh)
    down = model.layers.mlp.down.weight[...]
    assert down.addressable_shards[0].data.size == down.size // 8
    means = neuron_means(model, toy.dataset(), mesh=mesh)
    np.testing.assert_allclose(means, fill, rtol=1e-5, atol=1e-6)
    options = dict(masks=masks, classes=classes, fill=fill)
    one = predict_toy(**options)
    several = predict(model, toy.dataset(), mesh=mesh, **PASS, **options)
    np.testing.assert_array_equal(several.correct, one.correct)
    np.testing.assert_allclose(several.logit_difference, one.logit_difference, rtol=1e-4, atol=2e-5)


def test_without_classes_all_problems_have_circuit_0(circuits, fill):
    masks, _ = circuits
    alone = predict_toy(masks=masks, fill=fill)
    zeros = np.zeros(len(toy.dataset()), int)
    assert_predicts(alone, manual(masks, zeros, fill[:, None]))


def test_heads_outside_a_circuit_are_ablated(whole):
    """Masks of another site: each head's mean in place of its output, by hand."""
    data, rng = toy.dataset(), np.random.default_rng(1)
    means = neuron_means(toy.model(), data, site='head_out')
    masks = rng.random((1, toy.L, 4)) < 0.5
    predictions = predict_toy(masks=masks, fill=means, site='head_out')
    keep = masks[0][:, None, None, :, None].astype(np.float32)
    edits = {'head_out': Edit(keep, (1 - keep) * means[:, None])}
    run = jax.jit(lambda m, t: m(t, edits=edits, logits_at=-1)[0])
    assert_predicts(predictions, run(toy.model(), data.tokens))
    assert np.abs(predictions.logit_difference - whole.logit_difference).max() > 0.01


def test_ablation_at_some_positions(circuits, fill):
    """Of the others the neurons stay: the same as a mask of ones there."""
    masks, _ = circuits
    predictions = predict_toy(masks=masks, fill=fill, positions=(-1, -2))
    keep = masks[0][:, None, None, :] | (np.arange(toy.T) < toy.T - 2)[:, None]
    keep = keep.astype(np.float32)
    shift = (1 - keep) * fill[:, None]
    assert_predicts(predictions, answer_logits(keep, shift))
    everywhere = predict_toy(masks=masks, fill=fill)
    assert np.abs(predictions.logit_difference - everywhere.logit_difference).max() > 0.01


def test_soft_masks_are_not_cut(fill):
    masks = np.random.default_rng(2).random((toy.K, toy.L, toy.F)).astype(np.float32)
    keep = masks[0][:, None, None, :]
    logits = answer_logits(keep, (1 - keep) * fill[:, None])
    assert_predicts(predict_toy(masks=masks, fill=fill), logits)


@pytest.mark.parametrize('ablation', ['zero', 'mean'])
def test_no_ablation_fills_a_dense_array(ablation, circuits, fill):
    """Nothing in the program has the size [L, B, T, F]: masks and means meet layer by layer."""
    data, B = toy.dataset(), 7
    constants = {'model': toy.model(), 'masks': circuits[0]}
    if ablation == 'mean':
        constants['fill'] = fill
    rows = {'tokens': data.tokens, 'lengths': data.lengths, 'answers': data.answers}
    rows |= {'classes': circuits[1], 'counterfactual_answers': data.counterfactual_answers}
    rows = {name: values[:B] for name, values in rows.items()}
    text = str(jax.make_jaxpr(predict_rows('neurons', None))(constants, rows))
    assert f'[{B},{toy.T},{toy.F}]' in text
    assert f'[{toy.L},{B},{toy.T},{toy.F}]' not in text


def test_wrong_calls():
    masks = np.ones((1, toy.L, toy.F))
    with pytest.raises(ValueError, match=r'resample.*choose one of zero, mean, over'):
        predict_toy(masks=masks, ablation='resample')
    with pytest.raises(ValueError, match='needs the means as `fill`'):
        predict_toy(masks=masks)
    with pytest.raises(InputError, match=r"\(1, 2, 31\); those of 'neurons' .* \[K, 2, 32\]"):
        predict_toy(masks=masks[:, :, 1:], ablation='zero')
    with pytest.raises(InputError, match=r"those of 'head_out' in this model are \[K, 2, 4\]"):
        predict_toy(masks=masks, ablation='zero', site='head_out')
    with pytest.raises(InputError, match='classes run from 0 to 1, and there are masks for 1'):
        predict_toy(masks=masks, ablation='zero', classes=np.arange(len(toy.dataset())) % 2)


def test_accuracy_by_class_by_hand():
    predictions = Predictions(
        np.array([True, False, True, True]), np.zeros(4), np.zeros(4), np.zeros(4, int)
    )
    by_class = predictions.accuracy_by_class(np.array([0, 0, 3, 1]), 4)
    np.testing.assert_array_equal(by_class, [0.5, 1.0, np.nan, 1.0])
    assert predictions.accuracy == 0.75
