import dataclasses
import json
import math
import os
import signal

import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.classifier import Encoding
from cdjax.data import batch_indices
from cdjax.errors import InputError
from cdjax.inference.activations import answer_logits_and_activations
from cdjax.inference.encodings import encode
from cdjax.inference.means import neuron_means
from cdjax.losses import CausalDiscoveryWeights, DiscoveryWeights
from cdjax.parallel.mesh import make_mesh
from cdjax.parallel.preemption import Preempted
from cdjax.run.checksums import tree_names
from cdjax.run.options import RunOptions
from cdjax.training import discovery
from cdjax.training.diagnostics import GradientReport
from cdjax.training.discovery import DiscoveryConfig, check_discovery, discover
from cdjax.training.objectives import AnySize, FixedDensity, Published
from cdjax.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.usefixtures('one_step_a_dispatch')

STEPS = 20
# The toy models answer nothing right.
CONFIG = DiscoveryConfig(
    OptimizerConfig(STEPS, 3e-2, warmup_steps=1),
    num_classes=toy.K,
    objective=AnySize(density=0.2, smallest=0.05, sizes=4),
    batch_size=32,
    temperature=0.7,
    least_accuracy=0.0,
)


jit_step = discovery.jit_step


def run(mesh, config=CONFIG, **changes):
    changes = {'options': RunOptions(check_gradients=False)} | changes
    return discover(
        {'teacher': toy.model(mesh)}, toy.dataset(), toy.rows().train, config, mesh=mesh, **changes
    )


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """A run to the end, several of whose steps are a program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('cdjax.training.step.SMALL_STEP', math.inf)
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
    # Every size is a circuit of its own, and the smaller ones are in the larger ones.
    smaller = circuit.at_size(3).masks
    np.testing.assert_array_equal(smaller.sum(axis=(1, 2)), 3)
    assert not (smaller & ~circuit.masks).any()
    assert circuit.scores.std() > 0.15, 'it has not moved from the 0.1 that it starts with'
    means = neuron_means(toy.model(), data[rows.train], mesh=toy.one_device())
    np.testing.assert_array_equal(circuit.fill, means)
    assert circuit.info['data'] == data.hash
    facts = json.loads(json.dumps(circuit.info))
    assert facts['config']['objective']['key'] == 'any_size'
    counts = np.bincount(circuit.assignments[rows.train], minlength=toy.K)
    assert facts['class_counts'] == counts.tolist()


def test_the_classifier_that_is_saved_sorts_as_the_artefact_says(reference):
    circuit, data = reference[0]['teacher'], toy.dataset()
    assert len(set(circuit.assignments)) > 1
    again = circuit.classify(encode(toy.model(), data, circuit.encoding))
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
    reference, monkeypatch, tmp_path
):
    monkeypatch.setattr('cdjax.training.step.SMALL_STEP', math.inf)
    asked, compiled = [], toy.compilations('step')

    def stopping(*args, step, **options):
        asked.append(step)
        if step == 5 and asked.count(5) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_indices(*args, step=step, **options)

    monkeypatch.setattr(discovery, 'batch_indices', stopping)
    with pytest.raises(Preempted):
        run(toy.one_device(), workdir=tmp_path)
    assert asked[-1] == 9, 'not to the end of the steps that were dispatched'
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


def test_eight_devices_agree_with_one(reference, monkeypatch):
    """Which are given each step by itself, while several of the one's are a program."""
    states = []
    record = lambda step, state: states.append(state) or jit_step(step, state)
    monkeypatch.setattr(discovery, 'jit_step', record)
    before = toy.compilations('step')
    circuits, history = run(make_mesh(2, 4))
    assert toy.compilations('step') == before + 1
    scores = states[0].params['masks']['teacher']['scores'].sharding
    split = (toy.K, toy.L, toy.F // 4)
    assert scores.shard_shape((toy.K, toy.L, toy.F)) == split, 'masks are split like neurons'
    one, other = reference[0]['teacher'], circuits['teacher']
    assert history[-1]['loss'] == pytest.approx(reference[1][-1]['loss'], rel=1e-5)
    for a, b in [
        (one.scores, other.scores),
        (one.classifier['weight'], other.classifier['weight']),
        (one.fill, other.fill),
    ]:
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)
    assert np.mean(one.assignments == other.assignments) > 0.99


def test_microbatches_remat_and_answers_asked_for_again_leave_the_faithfulness_as_it_is():
    # The one term that is a mean over problems; the noise of a problem is the whole batch's.
    short = dataclasses.replace(
        CONFIG,
        optimizer=OptimizerConfig(4, 3e-2, warmup_steps=1),
        objective=FixedDensity(
            density=0.2,
            hidden=8,
            gate='hard_concrete',
            weights=CausalDiscoveryWeights(usage=0.0, similarity=0.0, sparsity=0.0, overlap=0.0),
        ),
    )
    whole, history = run(toy.one_device(), short)
    divided = dataclasses.replace(short, microbatches=4, remat='full', recompute_logits=True)
    parts, in_parts = run(toy.one_device(), divided)
    assert in_parts[-1]['faithfulness'] == pytest.approx(history[-1]['faithfulness'], rel=1e-5)
    one, other = whole['teacher'].scores, parts['teacher'].scores
    assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(one)
    assert whole['teacher'].size == round(0.2 * 64)
    assert ((one > 0) & (one < 1)).all()


@pytest.fixture(scope='module')
def joint():
    models = {'teacher': toy.model(), 'student': toy.model(seed=1, student=True)}
    config = dataclasses.replace(
        CONFIG,
        optimizer=OptimizerConfig(3, 3e-2),
        objective=dataclasses.replace(CONFIG.objective, counterfactual=0.5, specific=0.3),
    )
    circuits, history = discover(
        models,
        toy.dataset(),
        toy.rows().train,
        config,
        mesh=toy.one_device(),
        options=RunOptions(check_gradients=False),
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
    again = student.classify(encode(toy.model(), toy.dataset(), student.encoding))
    np.testing.assert_array_equal(again, student.assignments)
    assert student.info['encoder'] == 'teacher'
    assert student.info['model'] != teacher.info['model']
    assert {'faithfulness', 'usage'} <= history[-1].keys()


@pytest.fixture(scope='module')
def searches_in_fixed_classes():
    """Of two seeds and other classes: these, the circuits, what is trained, what is compiled."""
    programs = ('step', '_together')  # the doctor's beside it
    before = [toy.compilations(name) for name in programs]
    found, trained = [], []

    def record(step, state):
        trained.extend(tree_names(state.params))
        return jit_step(step, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, 'jit_step', record)
        for seed in range(2):
            config = dataclasses.replace(CONFIG, seed=seed, optimizer=OptimizerConfig(3, 3e-2))
            classes = np.roll(np.arange(len(toy.dataset())) % toy.K, seed)
            given = {'classes': classes, 'options': RunOptions()}
            found.append((classes, run(toy.one_device(), config, **given)[0]['teacher']))
    compiled = [toy.compilations(name) - n for name, n in zip(programs, before, strict=True)]
    return found, trained, compiled


def test_fixed_classes_train_no_classifier(searches_in_fixed_classes):
    found, trained, _ = searches_in_fixed_classes
    assert trained == ['masks.teacher.scores']
    for classes, circuit in found:
        assert circuit.classifier == {}
        np.testing.assert_array_equal(circuit.assignments, classes)
        assert circuit.masks.shape == (toy.K, toy.L, toy.F)


def test_searches_that_differ_in_seeds_and_classes_run_under_one_compilation(
    searches_in_fixed_classes,
):
    found, _, compiled = searches_in_fixed_classes
    assert compiled == [1, 1]
    (_, one), (_, other) = found
    assert not np.array_equal(one.scores, other.scores), 'each has its own arrays'


@pytest.mark.parametrize(
    ('objective', 'fixed'), [(CONFIG.objective, False), (FixedDensity(hidden=8), True)]
)
def test_all_columns_of_a_batch_are_of_the_same_problems(monkeypatch, objective, fixed):
    batches = []

    def record(step, state):
        return lambda state, batch, frozen: (batches.append(batch), (state, {'loss': 0.0}))[1]

    monkeypatch.setattr(discovery, 'jit_step', record)
    data, rows = toy.dataset(), toy.rows().train
    classes = np.arange(len(data)) % toy.K if fixed else None
    config = dataclasses.replace(CONFIG, batch_size=116, objective=objective)
    run(toy.one_device(), config, classes=classes)
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
        assert store.keys() == set(objective.stores), 'something is stored that nobody reads'
        if 'activations' in store:
            expected = (activations[at] - mean) / deviation
            np.testing.assert_allclose(store['activations'], expected, rtol=1e-2, atol=1e-3)
        others = np.asarray(batch['counterfactual_tokens'])
        np.testing.assert_array_equal(others, data.counterfactual_tokens[at])
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


def test_one_class_needs_no_classifier(monkeypatch):
    # Steps that do nothing; real ones of one class are in `test_discovery_real_data.py`.
    monkeypatch.setattr(
        discovery, 'jit_step', lambda step, state: lambda state, *_: (state, {'loss': 0.0})
    )
    config = dataclasses.replace(CONFIG, num_classes=1)
    circuit = run(toy.one_device(), config)[0]['teacher']
    assert circuit.classifier == {}
    assert not circuit.assignments.any()
    assert not circuit.classify(np.zeros((len(toy.dataset()), 1))).any()


def test_logits_to_be_asked_for_again_are_not_kept():
    config = dataclasses.replace(CONFIG, recompute_logits=True)
    assert build_store(config) == {}
    assert build_store(CONFIG).keys() == {'logits'}


def build_store(config):
    train = toy.dataset()[toy.rows().train]
    return discovery._build_store(toy.model(), 'teacher', train, config, mesh=toy.one_device())


def test_the_published_objective_stores_raw_activations_alone():
    store = build_store(dataclasses.replace(CONFIG, objective=Published(hidden=8)))
    train = toy.dataset()[toy.rows().train]
    _, neurons = answer_logits_and_activations(toy.model(), train, mesh=toy.one_device())
    assert store.keys() == {'activations'}
    np.testing.assert_array_equal(store['activations'], neurons.reshape(len(train), -1))


def test_the_causal_objective_reads_standardised_activations():
    store = build_store(dataclasses.replace(CONFIG, objective=FixedDensity(hidden=8)))
    assert store.keys() == {'logits', 'activations'}
    np.testing.assert_allclose(store['activations'].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(store['activations'].std(0), 1, rtol=1e-3)


def test_hard_concrete_gates_are_healthy(monkeypatch):
    # Steps that do nothing; those of `test_microbatches_...` have such gates.
    monkeypatch.setattr(
        discovery, 'jit_step', lambda step, state: lambda state, *_: (state, {'loss': 0.0})
    )
    objective = FixedDensity(density=0.2, hidden=8, gate='hard_concrete')
    config = dataclasses.replace(CONFIG, objective=objective)
    _, history = run(toy.one_device(), config, options=RunOptions())
    for name, weight in vars(objective.weights).items():
        assert weight == 0 or history[0][f'diagnostics/{name}/gradient'] > 0, name


def test_the_published_objective_trains():
    objective = Published(density=0.2, cosine=True, hidden=8, weights=DiscoveryWeights.authors())
    config = dataclasses.replace(CONFIG, objective=objective, optimizer=OptimizerConfig(3, 1e-2))
    compiled = toy.compilations('step')
    circuits, history = run(toy.one_device(), config, options=RunOptions())
    terms, weights = history[-1], vars(objective.weights)
    circuit = circuits['teacher']
    assert circuit.size == round(0.2 * 64)
    assert ((circuit.scores > 0) & (circuit.scores < 1)).all()
    assert toy.compilations('step') == compiled + 1
    total = sum(weight * terms[name] for name, weight in weights.items())
    assert terms['loss'] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ('specific', 'rankings'), [(None, 1), (None, toy.K), (0.3, 1), ('learned', 1)]
)
def test_a_search_may_start_from_a_ranking(monkeypatch, specific, rankings):
    # Steps that do nothing: what is found is the start.
    monkeypatch.setattr(
        discovery, 'jit_step', lambda step, state: lambda state, *_: (state, {'loss': 0.0})
    )
    rng = np.random.default_rng(0)
    ranking = np.exp(5 * rng.normal(size=(rankings, toy.L, toy.F)))  # only its order counts
    objective = dataclasses.replace(CONFIG.objective, specific=specific)
    config = dataclasses.replace(CONFIG, objective=objective, optimizer=OptimizerConfig(1))
    first = {'teacher': ranking}
    circuit = run(toy.one_device(), config, first_scores=first)[0]['teacher']
    order = lambda scores: np.argsort(np.argsort(scores, axis=None))
    for k in range(toy.K):
        assert np.corrcoef(order(circuit.scores[k]), order(ranking[k % rankings]))[0, 1] > 0.9
    if rankings == 1:
        assert circuit.masks.all(axis=0).sum() > 0.6 * circuit.size


def test_rankings_that_cannot_be():
    wrong = {'teacher': np.zeros((2, toy.L, toy.F))}
    with pytest.raises(InputError, match=r'first_scores of the teacher have shape \(2, 2, 32\)'):
        run(toy.one_device(), first_scores=wrong)
    config = dataclasses.replace(CONFIG, objective=FixedDensity(hidden=8))
    some = {'teacher': np.zeros((1, toy.L, toy.F))}
    with pytest.raises(InputError, match='causal objective cannot start from scores'):
        check_discovery(
            {'teacher': toy.teacher_config()},
            toy.dataset(),
            config,
            mesh=toy.one_device(),
            first_scores=some,
        )


# -- What a discovery says ------------------------------------------------------------------------


@pytest.mark.parametrize('recompute', [False, True])
def test_a_model_that_cannot_do_the_problems_is_refused(recompute):
    config = dataclasses.replace(CONFIG, least_accuracy=0.5, recompute_logits=recompute)
    with pytest.raises(
        InputError, match=r'^the teacher answers \d\.\d% .* from 50\.0% on: train it'
    ):
        run(toy.one_device(), config)


def test_classes_that_die_are_named(caplog):
    discovery._warn_of_dead_classes(np.array([500, 2, 498, 0]), 'discover')
    assert 'discover: 2 of 4 classes died' in caplog.text
    assert 'class 1 has 2 problems, class 3 has 0 problems' in caplog.text
    caplog.clear()
    discovery._warn_of_dead_classes(np.array([500, 30, 470]), 'discover')
    assert not caplog.text


@pytest.mark.parametrize(
    'change',
    [
        {'seed': 5},
        {'least_accuracy': 0.5},
        {'first_ranking': 'atp'},
        {'recompute_logits': True},
        {'encoding': Encoding('neurons')},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_no_step_reads_makes_no_other_program(change):
    changed = dataclasses.replace(CONFIG, **change)
    assert changed != CONFIG
    assert discovery._alike(changed) == discovery._alike(CONFIG)
    warmer = dataclasses.replace(CONFIG, temperature=2.0)
    assert discovery._alike(warmer) != discovery._alike(CONFIG)


def test_an_objective_that_cannot_be_hashed_is_refused():
    objective = dataclasses.replace(
        CONFIG.objective, weights=dataclasses.replace(CONFIG.objective.weights, usage=np.ones(()))
    )
    with pytest.raises(InputError, match='frozen dataclasses of Python numbers'):
        dataclasses.replace(CONFIG, objective=objective)


# -- The gradient doctor ------------------------------------------------------------------------


def test_it_is_asked_at_the_start_and_on_request(monkeypatch):
    batches = []
    doctor = lambda names, learned, config: (
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
        ({'temperature': 0.0}, r'temperature=0\.0 must be above 0'),
        ({'classifier_learning_rate': 0.0}, r'classifier_learning_rate=0\.0 must be above 0'),
        ({'least_accuracy': 10.0}, r'least_accuracy=10\.0: an accuracy, 0 to 1'),
        ({'batch_size': 3}, 'batch_size=3 .*any_size.*at least 4 for 3 classes'),
        ({'microbatches': 16}, 'batch_size=32 .*at least 64 for 3 classes in 16 microbatches'),
        ({'microbatches': 3}, 'microbatches=3 does not divide batch_size=32'),
        ({'seed': -1}, 'seed=-1 must not be negative'),
        ({'objective': FixedDensity(hidden=2)}, 'hidden=2 is below the 3 classes.*at least 3'),
        ({'objective': Published(), 'batch_size': 5}, 'batch_size=5 .*published.*at least 6'),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)


def with_objective(**changes):
    return dataclasses.replace(CONFIG, objective=dataclasses.replace(CONFIG.objective, **changes))


def test_wrong_values_that_only_a_model_shows():
    with pytest.raises(InputError, match=r'density=0\.001 is less than one neuron of the teacher'):
        run(toy.one_device(), with_objective(density=0.001))
    with pytest.raises(InputError, match=r'smallest=0\.001 of the 64 neurons of the teacher'):
        run(toy.one_device(), with_objective(smallest=0.001))
    with pytest.raises(InputError, match='encode_layer=2: the model has layers 0 to 1'):
        run(toy.one_device(), dataclasses.replace(CONFIG, encoding=Encoding(2)))


def test_what_is_refused_is_known_from_shapes_alone():
    data, shapes = toy.dataset(), {'student': toy.student_config()}
    check_discovery(shapes, data, CONFIG, mesh=make_mesh(8, 1))
    mixed = dataclasses.replace(data, lengths=np.arange(len(data)) % 2 + 4)
    with pytest.raises(InputError, match='prompts of 4 to 5 tokens'):
        check_discovery(shapes, mixed, CONFIG, mesh=toy.one_device())
    few = with_objective(density=0.01)
    with pytest.raises(InputError, match='less than one neuron of the student'):
        check_discovery(shapes, data, few, mesh=toy.one_device())
    odd = dataclasses.replace(CONFIG, batch_size=36)
    with pytest.raises(InputError, match=r'discovery_batch_size=36 .* multiple of 8'):
        check_discovery(shapes, data, odd, mesh=make_mesh(8, 1), batch_flag='discovery_batch_size')
