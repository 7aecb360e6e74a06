import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.classifier import Classifier, Encoding
from cdjax.circuits.masks import MaskGenerator
from cdjax.data import batch_indices
from cdjax.errors import InputError
from cdjax.inference.activations import answer_logits_and_activations
from cdjax.inference.means import neuron_means
from cdjax.losses import CausalDiscoveryWeights, DiscoveryWeights, discovery_loss
from cdjax.models import Edit
from cdjax.parallel.mesh import make_mesh
from cdjax.parallel.preemption import Preempted
from cdjax.run.checkpoints import tree_names
from cdjax.run.options import RunOptions
from cdjax.training import discovery
from cdjax.training.diagnostics import GradientReport
from cdjax.training.discovery import (
    DiscoveryConfig,
    check_discovery,
    discover,
    discovery_terms,
    gradient_doctor,
    with_noise,
)
from cdjax.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.usefixtures('quick_compilation')

STEPS = 20
CONFIG = DiscoveryConfig(
    OptimizerConfig(STEPS, 3e-2, warmup_steps=1),
    num_classes=toy.K,
    density=0.2,
    hidden=8,
    batch_size=32,
    temperature=0.7,
)


class SharedStep:
    """Compiles the step of the first run, and gives it to all runs that follow."""

    def __init__(self):
        self.jitted, self.shardings = None, []

    def __call__(self, step, state):
        leaves = zip(tree_names(state), jax.tree.leaves(state), strict=True)
        self.shardings.append({name: leaf.sharding for name, leaf in leaves})
        self.jitted = self.jitted or discovery_jit_step(step, state)
        return self.jitted


discovery_jit_step = discovery.jit_step


def run(mesh, config=CONFIG, **changes):
    changes = {'options': RunOptions(check_gradients=False)} | changes
    return discover(
        {'teacher': toy.model(mesh)}, toy.dataset(), toy.rows().train, config, mesh=mesh, **changes
    )


@pytest.fixture(scope='module')
def shared_step():
    return SharedStep()


@pytest.fixture(scope='module')
def reference(shared_step, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, 'jit_step', shared_step)
        return run(toy.one_device(), workdir=tmp_path_factory.mktemp('discovery'))


def assert_equal_circuits(one, other):
    for name in ('masks', 'scores', 'fill', 'assignments'):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name, value in one.classifier.items():
        np.testing.assert_array_equal(value, other.classifier[name])


def test_the_artefact(reference):
    circuit = reference[0]['teacher']
    data, rows = toy.dataset(), toy.rows()
    assert circuit.masks.shape == circuit.scores.shape == (toy.K, toy.L, toy.F)
    np.testing.assert_array_equal(circuit.masks.sum(axis=(1, 2)), round(0.2 * toy.L * toy.F))
    assert (circuit.scores > 0).all()
    assert (circuit.scores < 1).all()
    assert circuit.scores.std() > 0.01
    means = neuron_means(toy.model(), data[rows.train], mesh=toy.one_device())
    np.testing.assert_array_equal(circuit.fill, means)
    assert circuit.info['data'] == data.hash
    json.dumps(circuit.info)


def test_the_classifier_that_is_saved_sorts_as_the_artefact_says(reference):
    circuit, data = reference[0]['teacher'], toy.dataset()
    assert len(set(circuit.assignments)) > 1
    again = circuit.classify(toy.model(), data, mesh=toy.one_device())
    np.testing.assert_array_equal(again, circuit.assignments)
    # The encoding is the embeddings, standardised over the training rows.
    table = np.asarray(toy.model().embed.weight[...], np.float64)
    x = table[data.tokens].reshape(len(data), -1)
    train = x[toy.rows().train]
    deviation = np.where(train.std(0) > 1e-6, train.std(0), np.inf)
    z = (x - train.mean(0)) / deviation
    by_hand = (z @ circuit.classifier['weight'] + circuit.classifier['bias']).argmax(1)
    np.testing.assert_array_equal(by_hand, circuit.assignments)


def test_a_stopped_and_continued_discovery_is_the_uninterrupted_one(
    reference, shared_step, monkeypatch, tmp_path
):
    monkeypatch.setattr(discovery, 'jit_step', shared_step)
    asked, compiled = [], toy.compilations('step')

    def stopping(*args, step, **options):
        asked.append(step)
        if step == 5 and asked.count(5) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_indices(*args, step=step, **options)

    monkeypatch.setattr(discovery, 'batch_indices', stopping)
    with pytest.raises(Preempted):
        run(toy.one_device(), workdir=tmp_path)
    assert asked[-1] < STEPS - 1
    stopped_at = len(asked)
    circuits, history = run(toy.one_device(), workdir=tmp_path)
    assert asked[stopped_at] > 0, 'it began anew'
    assert asked[-1] == STEPS - 1
    assert_equal_circuits(circuits['teacher'], reference[0]['teacher'])
    rates = ('steps_per_second', 'tokens_per_second')
    plain = lambda points: [{k: v for k, v in p.items() if k not in rates} for p in points]
    assert plain(history) == plain(reference[1])
    # A weak type or another sharding of the restored state would have compiled the step again.
    assert toy.compilations('step') == compiled


@pytest.mark.parametrize('shape', [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_eight_devices_agree_with_one(reference, monkeypatch, shape):
    step = SharedStep()
    monkeypatch.setattr(discovery, 'jit_step', step)
    before = toy.compilations('step')
    circuits, history = run(make_mesh(*shape))
    assert toy.compilations('step') == before + 1
    neurons = step.shardings[0]['params.generators.teacher.neurons']
    assert neurons.shard_shape((8, 64)) == (8, 64 // shape[1]), 'masks are split like neurons'
    one, other = reference[0]['teacher'], circuits['teacher']
    assert history[-1]['loss'] == pytest.approx(reference[1][-1]['loss'], rel=1e-5)
    for a, b in [
        (one.scores, other.scores),
        (one.classifier['weight'], other.classifier['weight']),
        (one.fill, other.fill),
    ]:
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)
    assert np.mean(one.assignments == other.assignments) > 0.99


def test_microbatches_and_remat_leave_the_faithfulness_as_it_is():
    # The one term that is a mean over problems; the noise of a problem is the whole batch's.
    short = dataclasses.replace(
        CONFIG,
        optimizer=OptimizerConfig(4, 3e-2, warmup_steps=1),
        weights=CausalDiscoveryWeights(usage=0.0, similarity=0.0, sparsity=0.0, overlap=0.0),
    )
    whole, history = run(toy.one_device(), short)
    parts, in_parts = run(make_mesh(2, 4), dataclasses.replace(short, microbatches=4, remat='full'))
    assert in_parts[-1]['faithfulness'] == pytest.approx(history[-1]['faithfulness'], rel=1e-5)
    one, other = whole['teacher'].scores, parts['teacher'].scores
    assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(one)


@pytest.fixture(scope='module')
def joint():
    models = {'teacher': toy.model(), 'student': toy.model(seed=1, student=True)}
    config = dataclasses.replace(
        CONFIG,
        optimizer=OptimizerConfig(3, 3e-2),
        weights=CausalDiscoveryWeights(completeness=0.5),
    )
    # With the gradient doctor, which must find nothing.
    circuits, history = discover(
        models, toy.dataset(), toy.rows().train, config, mesh=toy.one_device()
    )
    return circuits, history, config


def test_joint_discovery_gives_both_models_the_same_classes(joint):
    circuits, history, _ = joint
    teacher, student = circuits['teacher'], circuits['student']
    assert teacher.masks.shape == (toy.K, 2, 32)
    assert student.masks.shape == (toy.K, 2, 16)
    assert student.size == round(0.2 * 32)
    np.testing.assert_array_equal(teacher.assignments, student.assignments)
    # Both are sorted by the teacher's encoding, twice as wide as the student's.
    assert len(student.classifier['mean']) == toy.T * toy.teacher_config().hidden_size
    again = student.classify(toy.model(), toy.dataset(), mesh=toy.one_device())
    np.testing.assert_array_equal(again, student.assignments)
    assert student.info['encoder'] == 'teacher'
    assert student.info['model'] != teacher.info['model']
    assert {'completeness', 'faithfulness', 'usage'} <= history[-1].keys()


def test_fixed_classes_train_no_classifier(monkeypatch):
    step = SharedStep()
    monkeypatch.setattr(discovery, 'jit_step', step)
    classes = toy.dataset().labels['operators']
    config = dataclasses.replace(CONFIG, num_classes=2, optimizer=OptimizerConfig(3, 3e-2))
    circuit = run(toy.one_device(), config, classes=classes)[0]['teacher']
    assert not [name for name in step.shardings[0] if 'classifier' in name]
    assert circuit.classifier == {}
    np.testing.assert_array_equal(circuit.assignments, classes)
    assert circuit.masks.shape == (2, toy.L, toy.F)
    assert step.jitted._cache_size() == 1


@pytest.mark.parametrize('fixed', [False, True])
def test_all_columns_of_a_batch_are_of_the_same_problems(monkeypatch, fixed):
    batches = []

    def record(step, state):
        return lambda state, batch, frozen: (batches.append(batch), (state, {'loss': 0.0}))[1]

    monkeypatch.setattr(discovery, 'jit_step', record)
    data, rows = toy.dataset(), toy.rows().train
    classes = np.arange(len(data)) % toy.K if fixed else None
    run(toy.one_device(), dataclasses.replace(CONFIG, batch_size=116), classes=classes)
    # Tokens tell the problem; batches of the size of the training set hold each of them once.
    row_of = {tuple(tokens): row for row, tokens in enumerate(data.tokens)}
    logits, neurons = answer_logits_and_activations(toy.model(), data, mesh=toy.one_device())
    activations = neurons.reshape(len(data), -1)
    mean, deviation = activations[rows].mean(0), activations[rows].std(0)
    table = np.asarray(toy.model().embed.weight[...])[data.tokens].reshape(len(data), -1)
    spread = table[rows].std(0)
    for batch in batches:
        at = np.array([row_of[tuple(tokens)] for tokens in np.asarray(batch['tokens'])])
        np.testing.assert_array_equal(np.sort(at), rows)
        store = batch['stores']['teacher']
        np.testing.assert_allclose(store['logits'], logits[at], atol=1e-5)
        expected = (activations[at] - mean) / deviation
        np.testing.assert_allclose(store['activations'], expected, rtol=1e-2, atol=1e-3)
        if fixed:
            np.testing.assert_array_equal(batch['classes'], classes[at])
            continue
        expected = (table[at] - table[rows].mean(0)) / np.where(spread > 1e-6, spread, np.inf)
        np.testing.assert_allclose(batch['encoding'], expected, rtol=1e-2, atol=1e-3)
    assert len(batches) == STEPS
    assert (np.asarray(batches[0]['tokens']) != np.asarray(batches[1]['tokens'])).any()


def test_more_classes_than_masks_are_refused():
    with pytest.raises(ValueError, match='class 3 of 3 classes'):
        run(toy.one_device(), classes=np.arange(len(toy.dataset())) % 4)


# -- The terms, one batch of them ----------------------------------------------------------------


@pytest.fixture(scope='module')
def batch():
    """Parameters, what is frozen, and a batch with everything that either objective reads."""
    data, model = toy.dataset()[:64], toy.model()
    logits, neurons = answer_logits_and_activations(model, data, mesh=toy.one_device())
    rng = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(3))
    params = {
        'generators': {'teacher': MaskGenerator(toy.K, toy.L, toy.F, keys[0], hidden=8)},
        'classifier': Classifier(6, toy.K, keys[1]),
    }
    fill = rng.normal(size=(toy.L, toy.T, toy.F)).astype(np.float32)
    return {
        'params': params,
        'frozen': {'teacher': {'model': model, 'fill': fill}},
        'batch': {
            'tokens': data.tokens,
            'lengths': data.lengths,
            'encoding': rng.normal(size=(64, 6)).astype(np.float32),
            'stores': {'teacher': {'logits': logits, 'activations': neurons.reshape(64, -1)}},
        },
        'key': jax.random.key(4),
    }


def terms_of(inputs, config, **changes):
    jitted = jax.jit(
        lambda params, frozen, batch, key: discovery_terms(
            params, frozen, with_noise(batch, key, config), config
        )
    )
    return jitted(**(inputs | changes))


def test_faithfulness_and_completeness_by_hand(batch):
    classes = np.arange(64) % toy.K
    fixed = {k: v for k, v in batch['batch'].items() if k != 'encoding'} | {'classes': classes}
    config = dataclasses.replace(CONFIG, weights=CausalDiscoveryWeights(completeness=1.0))
    terms = terms_of(batch, config, batch=fixed)

    masks = 1 / (1 + np.exp(-np.asarray(batch['params']['generators']['teacher'](), np.float64)))
    fill, model = batch['frozen']['teacher']['fill'], batch['frozen']['teacher']['model']
    forward = jax.jit(
        lambda scale, shift: model(
            fixed['tokens'], edits={'neurons': Edit(scale, shift)}, logits_at=-1
        )[0]
    )

    def log_softmax(x):
        x = np.asarray(x, np.float64)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    p = log_softmax(fixed['stores']['teacher']['logits'])
    kl = {'circuit': np.zeros(64), 'complement': np.zeros(64)}
    for k in range(toy.K):
        for name, mask in (('circuit', masks[k]), ('complement', 1 - masks[k])):
            scale = mask[:, None, None, :].astype(np.float32)
            q = log_softmax(forward(scale, (1 - scale) * fill[:, None]))
            rows = classes == k
            kl[name][rows] = (np.exp(p) * (p - q)).sum(-1)[rows]
    assert kl['circuit'].mean() > 1e-3
    np.testing.assert_allclose(terms['faithfulness'], kl['circuit'].mean(), rtol=1e-3)
    np.testing.assert_allclose(terms['completeness'], np.exp(-kl['complement']).mean(), rtol=1e-4)


def test_no_step_makes_a_dense_fill(batch):
    """With remat nothing in a step has the size [L, B, T, F], for all that each row has a mask."""
    config = dataclasses.replace(CONFIG, remat='full')

    def loss(params):
        noisy = with_noise(batch['batch'], batch['key'], config)
        return discovery_terms(params, batch['frozen'], noisy, config)['faithfulness']

    text = str(jax.make_jaxpr(jax.grad(loss))(batch['params']))
    assert f'f32[64,{toy.T},{toy.F}]' in text
    assert f'[{toy.L},64,{toy.T},{toy.F}]' not in text


def test_corrected_terms_by_hand(batch):
    config = dataclasses.replace(CONFIG, per_layer=True)
    terms = terms_of(batch, config)
    # The information is that of the softmax: the noise of the samples would hide a classifier
    # that knows nothing.
    logits = np.asarray(batch['params']['classifier'](batch['batch']['encoding']), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = lambda p: -np.sum(p * np.log(p), axis=-1)
    assert float(terms['usage']) == pytest.approx(
        entropy(p).mean() - entropy(p.mean(axis=0)), abs=1e-5
    )
    masks = 1 / (1 + np.exp(-np.asarray(batch['params']['generators']['teacher'](), np.float64)))
    density = masks.mean(axis=-1)
    kl = density * np.log(density / 0.2) + (1 - density) * np.log((1 - density) / 0.8)
    assert float(terms['density']) == pytest.approx(kl.mean(), rel=1e-4)
    # The store is standardised over all problems, and the batch is not standardised again.
    noise = jax.random.gumbel(batch['key'], logits.shape)
    classes = np.argmax(logits + noise, axis=1)
    a = np.asarray(batch['batch']['stores']['teacher']['activations'], np.float64)
    similarity = []
    for k, mask in enumerate(masks.reshape(toy.K, -1)):
        unit = mask * a / np.linalg.norm(mask * a, axis=1, keepdims=True)
        cosines, inside = unit @ unit.T, classes == k
        within = cosines[np.ix_(inside, inside)][~np.eye(inside.sum(), dtype=bool)]
        similarity.append(cosines[np.ix_(inside, ~inside)].mean() - within.mean())
    assert float(terms['similarity']) == pytest.approx(np.mean(similarity), abs=1e-4)


@pytest.mark.parametrize('cosine', [False, True])
def test_published_terms_are_those_of_the_loss(batch, cosine):
    config = dataclasses.replace(CONFIG, objective='published', cosine=cosine)
    terms = terms_of(batch, config)
    logits = batch['params']['classifier'](batch['batch']['encoding'])
    noise = jax.random.gumbel(batch['key'], logits.shape)
    one_hot = np.eye(toy.K, dtype=np.float32)[np.argmax(logits + noise, axis=1)]
    masks = jax.nn.sigmoid(batch['params']['generators']['teacher']()).reshape(toy.K, -1)
    activations = batch['batch']['stores']['teacher']['activations']
    _, expected = discovery_loss(activations, one_hot, masks, target=0.2, normalize=cosine)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)


def test_the_published_objective_trains_on_raw_activations(monkeypatch):
    step = SharedStep()
    monkeypatch.setattr(discovery, 'jit_step', step)
    stores = []
    build = discovery._build_store

    def kept(*args, **options):
        stores.append(build(*args, **options))
        return stores[-1]

    monkeypatch.setattr(discovery, '_build_store', kept)
    config = dataclasses.replace(
        CONFIG,
        objective='published',
        cosine=True,
        weights=DiscoveryWeights.authors(),
        optimizer=OptimizerConfig(3, 1e-2),
    )
    circuits, history = run(toy.one_device(), config, options=RunOptions())
    terms, weights = history[-1], DiscoveryWeights.authors()
    total = sum(weight * terms[name] for name, weight in vars(weights).items())
    assert terms['loss'] == pytest.approx(total, rel=1e-4)
    assert circuits['teacher'].size == round(0.2 * 64)
    assert step.jitted._cache_size() == 1
    train = toy.dataset()[toy.rows().train]
    _, neurons = answer_logits_and_activations(toy.model(), train, mesh=toy.one_device())
    np.testing.assert_array_equal(stores[0]['activations'], neurons.reshape(len(train), -1))


def test_the_causal_objective_reads_standardised_activations():
    train = toy.dataset()[toy.rows().train]
    store = discovery._build_store(toy.model(), train, CONFIG, mesh=toy.one_device())
    np.testing.assert_allclose(store['activations'].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(store['activations'].std(0), 1, rtol=1e-3)


# -- The gradient doctor ------------------------------------------------------------------------


def check(batch, config=CONFIG):
    doctor = gradient_doctor(batch['params'], config)
    return doctor(batch['params'], batch['frozen'], batch['batch'], batch['key'], 0)


def test_the_masks_carry_the_gradient_of_the_classifier(batch):
    report = check(batch)
    assert report.failures == ()
    assert report.groups == ('generators.teacher', 'classifier')
    assert report.terms['faithfulness'].group_norms['classifier'] > 1e-6
    assert report.terms['faithfulness'].group_norms['generators.teacher'] > 1e-6
    assert report.terms['usage'].group_norms['generators.teacher'] == 0


def test_masks_looked_up_by_argmax_are_caught(batch, monkeypatch):
    def trap(noise, logits, temperature):
        return jax.nn.one_hot(jnp.argmax(logits + noise, -1), logits.shape[-1])

    monkeypatch.setattr(discovery, 'straight_through_gumbel_softmax', trap)
    (failure,) = check(batch).failures
    assert failure.startswith('faithfulness (weight 10) does not reach classifier')


def test_a_mask_generator_that_one_model_does_not_use_is_caught(batch):
    two = dict(batch)
    for name in ('params', 'frozen', 'batch'):
        two[name] = dict(batch[name])
    spare = MaskGenerator(toy.K, toy.L, toy.F, jax.random.key(5), hidden=8)
    frozen = jax.tree.map(jnp.asarray, batch['frozen']['teacher'])
    two['params']['generators'] = dict(batch['params']['generators'], student=spare)
    # A student whose answers do not depend on its neurons: nothing is left of the masks.
    deaf = dict(frozen, model=jax.tree.map(jnp.zeros_like, frozen['model']))
    two['frozen'] = dict(batch['frozen'], student=deaf)
    two['batch']['stores'] = dict(
        batch['batch']['stores'], student=batch['batch']['stores']['teacher']
    )
    (failure,) = check(two).failures
    assert failure.startswith('faithfulness (weight 10) does not reach generators.student')


def test_it_is_asked_at_the_start_and_on_request(monkeypatch):
    batches = []
    doctor = lambda params, config: (
        lambda params, frozen, batch, key, step: (
            batches.append((int(step), batch)) or GradientReport('faithfulness', (), {})
        )
    )
    monkeypatch.setattr(discovery, 'gradient_doctor', doctor)
    monkeypatch.setattr(
        discovery, 'jit_step', lambda step, state: lambda state, *_: (next_step(state), {})
    )
    next_step = lambda state: dataclasses.replace(state, step=state.step + 1)
    config = dataclasses.replace(CONFIG, microbatches=2)
    run(toy.one_device(), config, options=RunOptions())
    assert [step for step, _ in batches] == [0]
    run(
        toy.one_device(),
        config,
        options=RunOptions(check_gradients=False, diagnose_every=STEPS // 2),
    )
    assert [step for step, _ in batches] == [0, STEPS // 2, STEPS]
    # One microbatch of the two, as much as fits beside the training.
    assert all(batch['tokens'].shape == (16, toy.T) for _, batch in batches)
    run(toy.one_device(), config)
    assert len(batches) == 3


# -- What the configuration refuses -------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'num_classes': 0}, 'num_classes=0: at least 1 class'),
        ({'density': 0.0}, r'density=0\.0'),
        ({'density': 1.0}, r'density=1\.0'),
        ({'objective': 'causl'}, "'causl' is unknown; choose causal or published"),
        ({'temperature': 0.0}, r'temperature=0\.0 must be above 0'),
        ({'sparsity_from': 1.5}, r'sparsity_from=1\.5'),
        ({'hidden': 2}, 'hidden=2 is below the 3 classes.*at least 3'),
        ({'batch_size': 5}, 'batch_size=5.*at least 6 for 3 classes'),
        ({'microbatches': 8}, 'batch_size=32.*at least 48 for 3 classes in 8 microbatches'),
        ({'microbatches': 3}, 'microbatches=3 does not divide batch_size=32'),
        ({'seed': -1}, 'seed=-1 must not be negative'),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_wrong_values_that_only_a_model_shows():
    with pytest.raises(InputError, match=r'density=0\.001 is less than one neuron of the teacher'):
        run(toy.one_device(), dataclasses.replace(CONFIG, density=0.001))
    with pytest.raises(InputError, match='encode_layer=2: the model has layers 0 to 1'):
        run(toy.one_device(), dataclasses.replace(CONFIG, encoding=Encoding(2)))


def test_what_is_refused_is_known_from_shapes_alone():
    data, shapes = toy.dataset(), {'student': toy.student_config()}
    check_discovery(shapes, data, CONFIG, mesh=make_mesh(8, 1))
    mixed = dataclasses.replace(data, lengths=np.arange(len(data)) % 2 + 4)
    with pytest.raises(InputError, match='prompts of 4 to 5 tokens'):
        check_discovery(shapes, mixed, CONFIG, mesh=toy.one_device())
    few = dataclasses.replace(CONFIG, density=0.01)
    with pytest.raises(InputError, match='less than one neuron of the student'):
        check_discovery(shapes, data, few, mesh=toy.one_device())
    odd = dataclasses.replace(CONFIG, batch_size=36)
    with pytest.raises(InputError, match=r'discovery_batch_size=36 .* multiple of 8'):
        check_discovery(shapes, data, odd, mesh=make_mesh(8, 1), batch_flag='discovery_batch_size')


@pytest.mark.parametrize(('step', 'faded'), [(0, 0.0), (10, 0.0), (15, 0.5), (20, 1.0)])
def test_sparsity_is_faded_in_over_the_last_half(step, faded):
    weights = discovery._faded(CONFIG, jnp.int32(step))
    final = CONFIG.term_weights()
    assert weights['sparsity'] == pytest.approx(final.sparsity * faded)
    assert weights['density'] == final.density


def test_the_published_sum_is_not_faded():
    config = dataclasses.replace(CONFIG, objective='published')
    assert discovery._faded(config, jnp.int32(0)) == dict.fromkeys(vars(DiscoveryWeights()), 1.0)
