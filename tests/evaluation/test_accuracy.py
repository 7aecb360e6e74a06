import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.ablation import neuron_means
from cdjax.evaluation.accuracy import Predictions, bootstrap_interval, predict
from cdjax.models import Edit
from cdjax.parallel.mesh import make_mesh

pytestmark = pytest.mark.usefixtures('quick_compilation')


def predict_toy(**options):
    return predict(toy.model(), toy.dataset(), mesh=toy.one_device(), batch_size=64, **options)


@jax.jit
def answer_logits(model, tokens, scale=None, shift=None):
    edits = None if scale is None else {'neurons': Edit(scale, shift)}
    return model(tokens, edits=edits, logits_at=-1)[0]


def expected(logits):
    """Correctness and logit difference by a loop over problems."""
    data, correct, difference = toy.dataset(), [], []
    for n, row in enumerate(np.asarray(logits, np.float64)):
        correct.append(row[data.answers[n]] == row.max())
        difference.append(row[data.answers[n]] - row[data.counterfactual_answers[n]])
    return np.array(correct), np.array(difference)


def assert_predicts(predictions, logits):
    correct, difference = expected(logits)
    np.testing.assert_array_equal(predictions.correct, correct)
    np.testing.assert_allclose(predictions.logit_difference, difference, rtol=1e-3, atol=2e-5)


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
    assert_predicts(whole, answer_logits(toy.model(), toy.dataset().tokens))
    assert len(set(whole.logit_difference)) > 100, 'nothing to tell apart'


def test_masks_of_ones_are_the_whole_model(whole, fill):
    ones = np.ones((toy.K, toy.L, toy.F))
    masked = predict_toy(masks=ones, fill=fill)
    np.testing.assert_array_equal(masked.correct, whole.correct)
    np.testing.assert_allclose(masked.logit_difference, whole.logit_difference, atol=2e-5)


def test_masks_of_zeros_replace_every_neuron(fill):
    masked = predict_toy(masks=np.zeros((toy.K, toy.L, toy.F)), fill=fill)
    logits = answer_logits(
        toy.model(), toy.dataset().tokens, np.zeros((1, 1, 1, 1), np.float32), fill[:, None]
    )
    assert_predicts(masked, logits)


def manual(masks, classes, values_LxBxTxF):
    """Logits with each class's circuit, one class after the other."""
    data = toy.dataset()
    logits = np.zeros((len(data), len(toy.tokenizer())))
    for k in range(len(masks)):
        keep = masks[k][:, None, None, :].astype(np.float32)
        replaced = (1 - keep) * values_LxBxTxF
        of_class = np.asarray(answer_logits(toy.model(), data.tokens, keep, replaced))
        logits[classes == k] = of_class[classes == k]
    return logits


@pytest.mark.parametrize('ablation', ['zero', 'mean', 'counterfactual'])
def test_each_problem_has_its_own_circuit_and_ablation(ablation, circuits, fill, whole):
    masks, classes = circuits
    data = toy.dataset()
    if ablation == 'counterfactual':
        values = jax.jit(lambda m, t: m(t, capture=('neurons',), logits_at=-1)[1]['neurons'])(
            toy.model(), data.counterfactual_tokens
        )
    else:
        values = np.zeros((toy.L, 1, toy.T, toy.F), np.float32)
        values += fill[:, None] if ablation == 'mean' else 0
    # zero ablation must not read the fill that a study passes on to all kinds
    predictions = predict_toy(masks=masks, classes=classes, ablation=ablation, fill=fill)
    assert_predicts(predictions, manual(masks, classes, values))
    assert np.abs(predictions.logit_difference - whole.logit_difference).max() > 0.01


@pytest.mark.parametrize('shape', [(8, 1), (4, 2), (2, 4), (1, 8)])
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
    several = predict(model, toy.dataset(), mesh=mesh, batch_size=64, **options)
    np.testing.assert_array_equal(several.correct, one.correct)
    np.testing.assert_allclose(several.logit_difference, one.logit_difference, rtol=1e-4, atol=2e-5)


def test_without_classes_all_problems_have_circuit_0(circuits, fill):
    masks, _ = circuits
    alone = predict_toy(masks=masks, fill=fill)
    zeros = np.zeros(len(toy.dataset()), int)
    assert_predicts(alone, manual(masks, zeros, fill[:, None]))


def test_wrong_calls():
    masks = np.ones((1, toy.L, toy.F))
    with pytest.raises(ValueError, match=r'resample.*choose one of zero, mean, counterfactual'):
        predict_toy(masks=masks, ablation='resample')
    with pytest.raises(ValueError, match='needs the mean activations'):
        predict_toy(masks=masks)


def test_accuracy_by_class_by_hand():
    predictions = Predictions(np.array([True, False, True, True]), np.zeros(4))
    by_class = predictions.accuracy_by_class(np.array([0, 0, 3, 1]), 4)
    np.testing.assert_array_equal(by_class, [0.5, 1.0, np.nan, 1.0])
    assert predictions.accuracy == 0.75


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = np.arange(1000) < 300
    low, high = bootstrap_interval(values)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    np.testing.assert_allclose([low, high], [0.3 - half, 0.3 + half], atol=0.004)
    narrow = bootstrap_interval(values, level=0.5)
    half = 0.674 * np.sqrt(0.3 * 0.7 / 1000)
    np.testing.assert_allclose(narrow, [0.3 - half, 0.3 + half], atol=0.004)
    assert bootstrap_interval(np.ones(10)) == (1.0, 1.0)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
