"""The terms of each objective on one batch, by hand, and what the gradient doctor says of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
import toy_study as toy

from cdjax.circuits.classifier import Classifier
from cdjax.circuits.masks import MaskGenerator, binarize, nested_scores
from cdjax.errors import InputError
from cdjax.inference.activations import answer_logits_and_activations
from cdjax.losses import AnySizeWeights, CausalDiscoveryWeights, DiscoveryWeights, discovery_loss
from cdjax.models import Edit
from cdjax.training import discovery_step
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.discovery_step import (
    CLASSIFIER,
    MASKS,
    discovery_loss_and_terms,
    gradient_doctor,
    with_draws,
)
from cdjax.training.objectives import (
    OBJECTIVES,
    AnySize,
    FixedDensity,
    Published,
)
from cdjax.training.optimizer import OptimizerConfig

B = 64
FIXED = FixedDensity(density=0.2, hidden=8)
ANY = AnySize(smallest=0.05, sizes=4)
CONFIG = DiscoveryConfig(
    OptimizerConfig(20, 3e-2), num_classes=toy.K, objective=FIXED, batch_size=B, temperature=0.7
)


def config_of(objective):
    return dataclasses.replace(CONFIG, objective=objective)


@pytest.fixture(scope='module')
def batch():
    """Parameters, what is frozen, and a batch with everything that any objective reads."""
    data, model = toy.dataset()[:B], toy.model()
    logits, neurons = answer_logits_and_activations(model, data, mesh=toy.one_device())
    rng = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(3))
    params = {
        'masks': {'teacher': MaskGenerator(toy.K, toy.L, toy.F, keys[0], hidden=8)},
        'classifier': Classifier(6, toy.K, keys[1]),
    }
    fill = rng.normal(size=(toy.L, toy.T, toy.F)).astype(np.float32)
    return {
        'params': params,
        'frozen': {'teacher': {'model': model, 'fill': fill}},
        'batch': {
            'tokens': data.tokens,
            'lengths': data.lengths,
            'answers': data.answers,
            'counterfactual_tokens': data.counterfactual_tokens,
            'encoding': rng.normal(size=(B, 6)).astype(np.float32),
            'stores': {'teacher': {'logits': logits, 'activations': neurons.reshape(B, -1)}},
        },
        'key': jax.random.key(4),
    }


@pytest.fixture(scope='module')
def scored(batch):
    """The same with the scores of an any-size search in place of a mask generator."""
    scores = np.random.default_rng(1).normal(size=(toy.K, toy.L, toy.F)).astype(np.float32)
    return batch | {'params': batch['params'] | {'masks': {'teacher': {'scores': scores}}}}


CLASSES = np.arange(B) % toy.K


def with_fixed_classes(inputs):
    rows = {name: x for name, x in inputs['batch'].items() if name != 'encoding'}
    return inputs | {'batch': rows | {'classes': CLASSES}}


def loss_of(inputs, config, progress=1.0):
    """The loss, its terms, and the random numbers that they are made with."""

    @jax.jit
    def jitted(params, frozen, batch, key):
        batch, draws = with_draws(batch, frozen, key, config)
        found = discovery_loss_and_terms(params, frozen, batch, draws, progress, config)
        return *found, batch['draws'], draws['teacher']

    return jax.device_get(jitted(**inputs))


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@jax.jit
def edited(model, tokens, scale, shift):
    return model(tokens, edits={'neurons': Edit(scale, shift)}, logits_at=-1)[0]


@jax.jit
def capture(model, tokens):
    return model(tokens, capture=('neurons',))[1]['neurons']


def divergences(inputs, masks_BxLxF, fill_LxBxTxF=None):
    """KL of the model with only these masks from the whole model, for each problem."""
    model, fill = inputs['frozen']['teacher']['model'], inputs['frozen']['teacher']['fill']
    fill = fill[:, None] if fill_LxBxTxF is None else fill_LxBxTxF
    scale = np.moveaxis(masks_BxLxF, 0, 1)[:, :, None].astype(np.float32)
    p = log_softmax(inputs['batch']['stores']['teacher']['logits'])
    q = log_softmax(edited(model, inputs['batch']['tokens'], scale, (1 - scale) * fill))
    return (np.exp(p) * (p - q)).sum(-1)


def check(inputs, config):
    params = inputs['params']
    # Anew each time, for what it looks at may be replaced.
    doctor = gradient_doctor.__wrapped__(tuple(params[MASKS]), CLASSIFIER in params, config)
    return doctor(params, inputs['frozen'], inputs['batch'], inputs['key'], 0)


@pytest.fixture(scope='module')
def examined(batch, scored):
    """Returns objective → inputs, the doctor's report, classes and random numbers of its batch."""

    @functools.cache
    def examine(objective):
        inputs, config = batch, config_of(objective)
        if objective.key == 'any_size':
            scores = scored['params']['masks']['teacher']['scores']
            if objective.specific:
                shared = np.random.default_rng(2).normal(size=(1, toy.L, toy.F))
                scores = np.concatenate([shared.astype(np.float32), scores])
            masks = {'teacher': {'scores': scores}}
            inputs = batch | {'params': batch['params'] | {'masks': masks}}
        draw = jax.jit(lambda rows, key: with_draws(rows, batch['frozen'], key, config))
        rows, draws = draw(inputs['batch'], jax.random.fold_in(inputs['key'], 0))
        rows, draws = jax.device_get((rows['draws'], draws['teacher']))
        classes = np.argmax(class_logits(inputs) + rows['gumbel'], axis=1)
        return inputs, check(inputs, config), classes, rows, draws

    return examine


def class_logits(inputs):
    return np.asarray(inputs['params']['classifier'](inputs['batch']['encoding']), np.float64)


def values(report):
    return {name: term.value for name, term in report.terms.items()}


def sigmoid_masks(inputs):
    return 1 / (1 + np.exp(-np.asarray(inputs['params']['masks']['teacher'](), np.float64)))


def test_no_step_makes_a_dense_fill(batch):
    """With remat nothing in a step has the size [L, B, T, F], for all that each row has a mask."""
    config = dataclasses.replace(CONFIG, remat='full')

    def loss(params):
        rows, draws = with_draws(batch['batch'], batch['frozen'], batch['key'], config)
        return discovery_loss_and_terms(params, batch['frozen'], rows, draws, 1.0, config)[0]

    text = str(jax.make_jaxpr(jax.grad(loss))(batch['params']))
    assert f'f32[{B},{toy.T},{toy.F}]' in text
    assert f'[{toy.L},{B},{toy.T},{toy.F}]' not in text


# -- Fixed density --------------------------------------------------------------------------------


CORRECTED = dataclasses.replace(
    FIXED, per_layer=True, weights=CausalDiscoveryWeights(completeness=1.0)
)


def test_faithfulness_and_completeness_by_hand(examined):
    inputs, report, classes, _, _ = examined(CORRECTED)
    terms, masks = values(report), sigmoid_masks(inputs)[classes]
    only = divergences(inputs, masks)
    assert only.mean() > 1e-3
    np.testing.assert_allclose(terms['faithfulness'], only.mean(), rtol=1e-3)
    without = divergences(inputs, 1 - masks)
    np.testing.assert_allclose(terms['completeness'], np.exp(-without).mean(), rtol=1e-4)


def test_corrected_terms_by_hand(examined):
    inputs, report, classes, _, _ = examined(CORRECTED)
    terms = values(report)
    # The information is that of the softmax: the noise of the samples would hide a classifier
    # that knows nothing.
    p = np.exp(log_softmax(class_logits(inputs)))
    entropy = lambda p: -np.sum(p * np.log(p), axis=-1)
    assert float(terms['usage']) == pytest.approx(
        entropy(p).mean() - entropy(p.mean(axis=0)), abs=1e-5
    )
    masks = sigmoid_masks(inputs)
    density = masks.mean(axis=-1)
    kl = density * np.log(density / 0.2) + (1 - density) * np.log((1 - density) / 0.8)
    assert float(terms['density']) == pytest.approx(kl.mean(), rel=1e-4)
    # The store is standardised over all problems, and the batch is not standardised again.
    a = np.asarray(inputs['batch']['stores']['teacher']['activations'], np.float64)
    similarity = []
    for k, mask in enumerate(masks.reshape(toy.K, -1)):
        unit = mask * a / np.linalg.norm(mask * a, axis=1, keepdims=True)
        cosines, inside = unit @ unit.T, classes == k
        within = cosines[np.ix_(inside, inside)][~np.eye(inside.sum(), dtype=bool)]
        similarity.append(cosines[np.ix_(inside, ~inside)].mean() - within.mean())
    assert float(terms['similarity']) == pytest.approx(np.mean(similarity), abs=1e-4)


def test_hard_concrete_gates_are_sampled_and_asked_for_the_density_of_open_ones(batch):
    inputs = with_fixed_classes(batch)
    _, terms, _, draws = loss_of(
        inputs, config_of(dataclasses.replace(FIXED, gate='hard_concrete'))
    )
    logits = np.asarray(batch['params']['masks']['teacher'](), np.float64)
    sample = 1 / (1 + np.exp(-(logits + draws['noise']) * 1.5))
    gates = np.clip(sample * 1.2 - 0.1, 0, 1)
    assert {0.0, 1.0} < set(gates.ravel().tolist())
    np.testing.assert_allclose(
        terms['faithfulness'], divergences(inputs, gates[CLASSES]).mean(), rtol=1e-3
    )
    density = (1 / (1 + np.exp(-(logits - 2 / 3 * np.log(0.1 / 1.1))))).mean(axis=(1, 2))
    kl = density * np.log(density / 0.2) + (1 - density) * np.log((1 - density) / 0.8)
    np.testing.assert_allclose(terms['density'], kl.mean(), rtol=1e-4)


@pytest.mark.parametrize(('progress', 'faded'), [(0.0, 0.0), (0.5, 0.0), (0.75, 0.5), (1.0, 1.0)])
def test_sparsity_is_faded_in_over_the_last_half(progress, faded):
    weights, final = FIXED.weights_at(jnp.float32(progress)), FIXED.weights
    assert float(weights.sparsity) == pytest.approx(final.sparsity * faded)
    assert weights.density == final.density


# -- Published ------------------------------------------------------------------------------------


@pytest.mark.parametrize('cosine', [False, True])
def test_published_terms_are_those_of_the_loss(batch, cosine):
    weights = DiscoveryWeights(1, 2, 3, 4, 5)
    objective = Published(density=0.2, cosine=cosine, hidden=8, weights=weights)
    loss, terms, rows, _ = loss_of(batch, config_of(objective), progress=0.0)
    one_hot = np.eye(toy.K, dtype=np.float32)[
        np.argmax(class_logits(batch) + rows['gumbel'], axis=1)
    ]
    masks = sigmoid_masks(batch).astype(np.float32).reshape(toy.K, -1)
    activations = batch['batch']['stores']['teacher']['activations']
    by_themselves = jax.jit(functools.partial(discovery_loss, target=0.2, normalize=cosine))
    _, expected = by_themselves(activations, one_hot, masks)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    # Nothing is faded: at the first step all weights are in force.
    total = sum(weight * float(expected[name]) for name, weight in vars(weights).items())
    np.testing.assert_allclose(loss, total, rtol=1e-4)


# -- Any size -------------------------------------------------------------------------------------


def highest(scores, sizes):
    """Masks of exact sizes, `[G, ...]`, by sorting each of the noisy scores."""
    return np.stack([binarize(s, int(n)) for s, n in zip(scores, sizes, strict=True)])


def expected_any_size(inputs, circuits, parts, classes, rows, fill=None):
    """The terms by hand; circuits and parts are `[G, K, L, F]`, `rows` what problems drew."""
    size = np.arange(B) % len(circuits)
    only = divergences(inputs, circuits[size, classes], fill)
    by_size = [only[size == g].mean() for g in range(len(circuits))]
    own = divergences(inputs, 1 - parts[size, classes].astype(float), fill)
    terms = {
        'faithfulness': np.log(np.array(by_size) + 0.02).mean(),
        'kl': only.mean(),
        'completeness': np.exp(-own / 2).mean(),
    }
    if 'other' not in rows:  # selectivity is not asked for
        return terms
    others = (classes - rows['other']) % toy.K
    assert set((others - classes) % toy.K) == {1, 2}, 'another class, and never its own'
    other = divergences(inputs, 1 - parts[size, others].astype(float), fill)
    return terms | {'selectivity': np.log1p(other).mean()}


SELECTIVE = dataclasses.replace(
    ANY, weights=AnySizeWeights(usage=0.0, completeness=2.0, selectivity=3.0)
)


SHARED_OUT = dataclasses.replace(
    ANY, specific='learned', weights=AnySizeWeights(usage=0.0, completeness=2.0)
)
# Two options that do not know of each other, in one program.
WITH_CORE = dataclasses.replace(SELECTIVE, specific=0.3, counterfactual=0.5)


def assert_terms(terms, expected):
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-3, err_msg=name)


def causal(report):
    return {name: value for name, value in values(report).items() if name != 'usage'}


def test_any_size_by_hand(scored):
    inputs = with_fixed_classes(scored)
    loss, terms, rows, draws = loss_of(inputs, config_of(SELECTIVE))
    sizes = draws['sizes']
    assert sizes.shape == (4,)
    assert 3 <= sizes.min() < sizes.max() <= 32
    silent = dataclasses.replace(SELECTIVE, noise=0.0)
    assert not silent.draw(inputs['key'], toy.teacher_config(), toy.K)['noise'].any()
    noisy = inputs['params']['masks']['teacher']['scores'] + draws['noise']
    circuits = highest(noisy, sizes)
    expected = expected_any_size(inputs, circuits, circuits, CLASSES, rows)
    assert_terms(terms, expected)
    total = expected['faithfulness'] + 2 * expected['completeness'] + 3 * expected['selectivity']
    np.testing.assert_allclose(loss, total, rtol=1e-3)


def core_and_parts(inputs, draws):
    """Circuits and what is specific of them, `[G, K, L, F]`."""
    scores = inputs['params']['masks']['teacher']['scores']
    noisy, sizes = scores + draws['noise'], draws['sizes']
    own = np.maximum(np.round(0.3 * sizes), 1)
    cores = highest(noisy[:, :1], sizes - own)
    parts = highest(np.where(cores, -np.inf, noisy[:, 1:]), own)
    return cores | parts, parts


def fill_of(inputs, rows):
    """What each problem's other neurons are filled with, `[L, B, T, F]`."""
    other = capture(inputs['frozen']['teacher']['model'], inputs['batch']['counterfactual_tokens'])
    mean = inputs['frozen']['teacher']['fill'][:, None]
    return np.where(rows['resampled'][None, :, None, None], other, mean)


def test_a_core_and_specific_parts_by_hand(examined):
    inputs, report, classes, rows, draws = examined(WITH_CORE)
    circuits, parts = core_and_parts(inputs, draws)
    sizes = np.repeat(draws['sizes'][:, None], toy.K, axis=1)
    np.testing.assert_array_equal(circuits.sum(axis=(2, 3)), sizes)
    assert (parts.sum(axis=(2, 3)) < sizes).all()
    fill = fill_of(inputs, rows)
    assert_terms(causal(report), expected_any_size(inputs, circuits, parts, classes, rows, fill))


def test_neurons_that_a_softmax_shares_out_by_hand(examined):
    inputs, report, classes, rows, draws = examined(SHARED_OUT)
    scores = inputs['params']['masks']['teacher']['scores']
    noisy, sizes = scores + draws['noise'], draws['sizes']
    q = scipy.special.softmax(np.insert(noisy, 0, 0.0, axis=1), axis=1)
    circuits = highest(q[:, 1:2] + q[:, 2:], sizes)
    parts = circuits & (q[:, 2:] > q[:, 1:2])
    assert 0 < parts.sum() < circuits.sum()
    assert_terms(causal(report), expected_any_size(inputs, circuits, parts, classes, rows))
    q = scipy.special.softmax(np.insert(scores, 0, 0.0, axis=0), axis=0)
    ranking = SHARED_OUT.ranking(scores)
    for size in (1, 7, 40):
        np.testing.assert_array_equal(binarize(ranking, size), binarize(q[1] + q[2:], size))


def test_some_fills_are_counterfactual(examined):
    inputs, report, classes, rows, draws = examined(WITH_CORE)
    assert 16 < rows['resampled'].sum() < 48
    circuits, parts = core_and_parts(inputs, draws)
    expected = expected_any_size(inputs, circuits, parts, classes, rows, fill_of(inputs, rows))
    assert_terms(causal(report), expected)
    of_means = expected_any_size(inputs, circuits, parts, classes, rows)
    for name, value in of_means.items():
        assert abs(values(report)[name] - value) > 0.01 * abs(value), name


@pytest.mark.parametrize('specific', [0.3, 0.5, 0.05])
def test_the_ranking_of_a_core_and_its_parts_is_what_was_trained(specific):
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(4, 2, 12)), 1).astype(np.float32)  # with ties
    ranking = AnySize(specific=specific).ranking(scores)
    assert ranking.shape == (3, 2, 12)
    for size in range(1, 25):
        own = max(round(specific * size), 1)
        core = binarize(scores[:1], size - own) if size > own else np.zeros((1, 2, 12), bool)
        parts = binarize(np.where(core, -100.0, scores[1:]), own)
        np.testing.assert_array_equal(binarize(ranking, size), core | parts, err_msg=f'{size}')


def test_a_ranking_with_a_core_orders_every_neuron():
    rng = np.random.default_rng(0)
    core, own = rng.normal(size=(4, 5000)), rng.normal(size=(2, 4, 5000))
    scores = nested_scores(core, own, 0.3)
    assert len(np.unique(scores[0])) == core.size


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'density': 1.0}, r'density=1\.0'),
        ({'smallest': 0.0}, r'smallest=0\.0, largest=0\.5: shares'),
        ({'smallest': 0.6}, r'smallest=0\.6, largest=0\.5: shares .* smaller one first'),
        ({'largest': 1.0}, r'largest=1\.0'),
        ({'sizes': 0}, 'sizes=0: at least 1'),
        ({'temperature': 0.0}, r'temperature=0\.0 must be above 0'),
        ({'noise': -1.0}, r'noise=-1\.0 not below'),
        ({'counterfactual': 1.5}, r'counterfactual=1\.5: a part of the rows'),
        ({'specific': 0.0}, r'specific=0\.0: a part of each circuit'),
        ({'specific': 'some'}, 'specific=some: a part of each circuit, .* or learned'),
    ],
)
def test_wrong_values_of_any_size(changes, message):
    with pytest.raises(InputError, match=message):
        AnySize(**changes)


@pytest.mark.parametrize(
    'objective', [AnySize(specific=0.3), AnySize(weights=AnySizeWeights(selectivity=1.0))]
)
def test_one_class_has_nothing_of_its_own(objective):
    with pytest.raises(InputError, match='one class has no other to be told from'):
        DiscoveryConfig(num_classes=1, objective=objective)


def test_the_control_of_one_mask_asks_for_nothing_that_tells_classes_apart():
    weights = AnySizeWeights(completeness=1.0, selectivity=1.0)
    objective = AnySize(smallest=0.02, specific=0.3, weights=weights)
    assert objective.suited_to(4) == objective
    alone = AnySize(smallest=0.02, weights=AnySizeWeights(completeness=1.0))
    assert objective.suited_to(1) == alone
    DiscoveryConfig(num_classes=1, objective=alone)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'density': 0.0}, r'density=0\.0'),
        ({'gate': 'hard'}, "gate='hard' is unknown; choose sigmoid or hard_concrete"),
        ({'sparsity_from': 1.5}, r'sparsity_from=1\.5'),
    ],
)
def test_wrong_values_of_a_fixed_density(changes, message):
    with pytest.raises(InputError, match=message):
        FixedDensity(**changes)


def test_the_registry():
    assert list(OBJECTIVES) == ['any_size', 'causal', 'published']
    for key, objective in OBJECTIVES.items():
        assert dataclasses.asdict(objective(density=0.3))['key'] == key
    assert isinstance(DiscoveryConfig().objective, AnySize)


# -- The gradient doctor ------------------------------------------------------------------------


@pytest.mark.parametrize('objective', [CORRECTED, WITH_CORE, SHARED_OUT])
def test_the_masks_carry_the_gradient_of_the_classifier(examined, objective):
    _, report, *_ = examined(objective)
    assert report.failures == ()
    assert report.groups == ('masks.teacher', 'classifier')
    assert report.terms['faithfulness'].group_norms['classifier'] > 1e-6
    assert report.terms['faithfulness'].group_norms['masks.teacher'] > 1e-6
    assert report.terms['usage'].group_norms['masks.teacher'] == 0


@pytest.fixture(scope='module')
def failures(scored):
    """Of a search in two models with two illnesses, neither of which hides the other."""
    two = dict(scored)
    for name in ('params', 'frozen', 'batch'):
        two[name] = dict(scored[name])
    frozen, masks = scored['frozen']['teacher'], scored['params']['masks']
    two['params']['masks'] = dict(masks, student=masks['teacher'])
    # A student whose answers do not depend on its neurons: nothing is left of the masks.
    deaf = dict(frozen, model=jax.tree.map(np.zeros_like, frozen['model']))
    two['frozen'] = dict(scored['frozen'], student=deaf)
    stores = scored['batch']['stores']
    two['batch']['stores'] = dict(stores, student=stores['teacher'])

    def trap(noise, logits, temperature):
        return jax.nn.one_hot(jnp.argmax(logits + noise, -1), logits.shape[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery_step, 'straight_through_gumbel_softmax', trap)
        return check(two, config_of(ANY)).failures


def test_masks_looked_up_by_argmax_are_caught(failures):
    _, of_classifier = failures
    assert of_classifier.startswith('faithfulness (weight 1) does not reach classifier')


def test_masks_that_one_model_does_not_use_are_caught(failures):
    of_student, _ = failures
    assert of_student.startswith('faithfulness (weight 1) does not reach masks.student')
