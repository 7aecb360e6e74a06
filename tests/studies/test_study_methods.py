"""A study of circuits takes its methods from the registry, and draws what is drawn many times."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.masks import binarize
from cdjax.circuits.methods import METHODS, ONE_MASK, Context, Method, learned_masks
from cdjax.circuits.methods.first_ranking import check_first_ranking, first_rankings
from cdjax.errors import InputError
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.parallel.mesh import make_mesh
from cdjax.report.findings import say
from cdjax.report.method_curves import method_curves
from cdjax.report.terminal import circuits_table
from cdjax.studies.circuits import (
    CircuitStudyConfig,
    ablated,
    selective,
    study_circuits,
    unseen_rows,
)
from cdjax.studies.circuits.structure import study_leak
from cdjax.studies.methods import (
    check_methods,
    methods_by_default,
    run_methods,
    with_classes,
)
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.objectives import FixedDensity
from cdjax.training.optimizer import OptimizerConfig

SIZES = (0.25, 1.0)


@pytest.fixture(scope='module')
def circuit():
    """Circuits of random scores and three random classes."""
    rng = np.random.default_rng(0)
    scores = rng.random((toy.K, toy.L, toy.F), np.float32)
    return Circuit(
        masks=binarize(scores, 16),
        scores=scores,
        fill=neuron_means(toy.model(), toy.dataset()[toy.rows().train]),
        assignments=rng.integers(toy.K, size=len(toy.dataset())).astype(np.int32),
        info={'model': 'm', 'data': 'd', 'config': {}, 'metrics': {}},
    )


@pytest.fixture
def mine():
    """A method of a user's own: neurons in their order, for one class."""

    def in_order(model, dataset, rows, classes, *, context):
        assert not set(rows) & set(toy.rows().test)
        assert context.fill.shape == (toy.L, toy.T, toy.F)
        scores = -np.arange(toy.L * toy.F, dtype=np.float32)
        return scores.reshape(1, toy.L, toy.F)

    method = Method('mine', 'in order', 'the first neurons', '#112233', in_order, classes='one')
    METHODS.add(method)
    yield method
    METHODS.remove('mine')


def run(circuit, config, **options):
    return run_methods(
        config.methods,
        toy.model(),
        toy.dataset(),
        toy.rows().train,
        circuit,
        ablation=config.ablation,
        seed=config.seed,
        **options,
    )


def study(circuit, config, rankings):
    model, data = toy.model(), toy.dataset()
    return study_circuits(model, data, toy.rows(), circuit, rankings, config, mesh=toy.one_device())


def test_a_method_from_outside_is_in_the_study_and_in_its_report(circuit, mine):
    config = CircuitStudyConfig(sizes=SIZES, areas=False, methods=methods_by_default(trained=False))
    assert {'mine', 'learned', 'random_masks'} <= set(config.methods)
    rankings = run(circuit, config)
    found = study(circuit, config, rankings)
    # Its first 16 of 64 neurons, against the model itself.
    masks = np.arange(toy.L * toy.F).reshape(1, toy.L, toy.F) < 16
    problems = toy.dataset()[unseen_rows(toy.rows(), config)]
    expected = predict(toy.model(), problems, masks=masks, fill=circuit.fill)
    assert found['curves']['mine'][0]['only'] == expected.accuracy
    assert found['leak']['one']['most_bits'] == 0
    assert found['methods']['mine']['title'] == 'in order'
    assert rankings['mine'].info == {'model': 'm', 'data': 'd', 'method': 'mine'}

    assert 'in order' in circuits_table(found, None)
    assert '#112233' in method_curves(found).panels[0].svg
    assert 'the first neurons (' in say('circuits', found)


def test_only_the_methods_that_are_named_are_run(circuit, mine):
    found = study(circuit, CircuitStudyConfig(sizes=SIZES, areas=False, methods=('mine',)), {})
    assert found['curves'].keys() == {'learned'}, 'it was named, and not run'
    config = CircuitStudyConfig(sizes=SIZES, areas=False, methods=('mean_activation',))
    assert config.methods == ('learned', 'mean_activation')
    rankings = run(circuit, config)
    assert rankings.keys() == {'mean_activation'}
    assert study(circuit, config, rankings)['curves'].keys() == {'learned', 'mean_activation'}


def test_intervals_of_random_masks_cover_masks_and_problems(circuit, monkeypatch):
    """Answers are made up: right with a probability that is the mask's, or the problem's."""
    rng = np.random.default_rng(0)
    config = CircuitStudyConfig(sizes=(0.25,), areas=False, methods=('random_masks',))
    levels = rng.uniform(0.05, 0.95, 3 * 20)
    asked = []

    def varied(model, problems, *, masks=None, classes=None, **_):
        whole = predict(model, problems)
        level = levels[classes // 3] if masks is not None and len(masks) == 60 else 1.0
        asked.append(None if masks is None else len(masks))
        return dataclasses.replace(whole, correct=rng.random(len(problems)) < level)

    def answer(by):
        each = lambda model, problems, masks, **how: [
            by(model, problems, masks=m, **how) for m in masks
        ]
        monkeypatch.setattr(ablated, 'predict', by)
        monkeypatch.setattr(ablated, 'predict_each', each)

    answer(varied)
    point = study(circuit, config, {})['curves']['random_masks'][0]
    assert 60 in asked, 'twenty draws for three classes, in one pass'
    low, high = point['only_interval']
    # Of about 34 problems, right half of the time: a deviation of .086, whatever it comes from.
    assert 0.2 < high - low < 0.5
    assert low < point['only'] < high

    one = dataclasses.replace(METHODS['random_masks'], draws=1)
    monkeypatch.setitem(METHODS._entries, 'random_masks', one)
    fixed = lambda model, problems, **_: dataclasses.replace(
        predict(model, problems), correct=np.arange(len(problems)) % 2 == 0
    )
    answer(fixed)
    point = study(circuit, config, {})['curves']['random_masks'][0]
    assert point['only'] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize('key', ['random_masks', 'random_living_masks'])
def test_draws_follow_the_circuits_layers_at_every_size(circuit, key):
    masks = circuit.at_size(20).masks
    living = np.zeros((toy.L, toy.F), bool)
    living[:, ::4] = True  # 8 of each layer
    classes = np.arange(50) % toy.K
    drawn = ablated.draw_circuits(METHODS[key], masks, classes, living, seed=3)
    by_draw = drawn.masks.reshape(20, *masks.shape)
    for draw in by_draw:
        np.testing.assert_array_equal(draw.sum(-1), masks.sum(-1))
    # Every problem has its own class's mask of some draw, and the draws have equally many.
    np.testing.assert_array_equal(drawn.classes % toy.K, classes)
    np.testing.assert_array_equal(drawn.classes // toy.K, drawn.groups)
    assert set(np.bincount(drawn.groups)) == {2, 3}
    if key == 'random_living_masks':
        alive = (by_draw & living).sum(-1)
        np.testing.assert_array_equal(
            alive, np.broadcast_to(np.minimum(masks.sum(-1), 8), alive.shape)
        )


def test_each_problem_lacks_the_random_masks_of_its_own_draw(circuit, monkeypatch):
    asked, living = [], np.ones((toy.L, toy.F), bool)

    def each(model, problems, masks, *, classes, **_):
        asked.extend(m[classes] for m in masks)
        return [SimpleNamespace(correct=classes >= 0) for _ in masks]

    monkeypatch.setattr(ablated, 'predict_each', each)
    without = ablated.Ablated(None, toy.dataset(), circuit.fill, 'mean', {})
    _, groups = selective._without_random(without, circuit.masks, living, 3)
    drawn = ablated.draw_circuits(METHODS['random_masks'], circuit.masks, 0 * groups, living, 3)
    by_draw = drawn.masks.reshape(-1, *circuit.masks.shape)
    assert len(asked) == toy.K
    for k, left in enumerate(asked):
        np.testing.assert_array_equal(left, ~by_draw[groups, k])


def test_one_circuit_is_kept_or_left_out_for_all_problems(circuit):
    problems, passes = toy.dataset()[:16], {'mesh': toy.one_device()}
    asked = ablated.Ablated(toy.model(), problems, circuit.fill, 'mean', passes, toy.K)
    expected = lambda mask: predict(toy.model(), problems, masks=mask[None], fill=circuit.fill)
    kept = [asked.only_this(mask) for mask in circuit.masks]
    left_out = asked.without_each(circuit.masks)
    for found, masks in ((kept, circuit.masks), (left_out, ~circuit.masks)):
        for one, mask in zip(found, masks, strict=True):
            by_hand = expected(mask).logit_difference
            np.testing.assert_allclose(one.logit_difference, by_hand, rtol=1e-4, atol=1e-5)
    apart = [one.logit_difference for one in (*kept, *left_out)]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(apart, 2)) > 1e-3


def test_what_a_method_would_refuse_is_found_before_it_runs():
    data, shape = toy.dataset(), toy.teacher_config()
    of_one = FixedDensity(density=0.25, hidden=1)
    narrow = DiscoveryConfig(OptimizerConfig(3, 1e-2), num_classes=1, objective=of_one)
    check_methods(
        ('learned', 'one_mask', 'mean_activation', 'random_masks'), data, 1, narrow, 0, shape
    )
    with pytest.raises(InputError, match=r'hidden=1 .* or leave operator_classes out of methods'):
        check_methods(('operator_classes',), data, 1, narrow, 0, shape)
    # Problems without operators have no such classes, and the method is left out.
    plain = dataclasses.replace(data, labels={'answer': data.labels['answer']})
    check_methods(('operator_classes',), plain, 1, narrow, 0, shape)
    with pytest.raises(InputError, match=r'methods=one_mask trains masks.*experiments\.pipeline'):
        check_methods(('one_mask',), data, 1, None, 0, shape)


def test_methods_whose_classes_the_problems_lack_are_left_out(circuit):
    data = toy.dataset()
    plain = dataclasses.replace(data, labels={'answer': data.labels['answer']})
    ran = run_methods(
        ('learned', 'operator_classes', 'random_masks'),
        toy.model(),
        plain,
        toy.rows().train,
        circuit,
        ablation='mean',
        seed=0,
    )
    assert ran == {}


def test_what_a_model_sorted_is_in_the_leak_table_as_it_was_sorted(circuit):
    data = toy.dataset()
    rows = np.arange(len(data))
    assert 'attribution' not in study_leak(data, rows, circuit, 0)
    by_answer = np.unique(data.answers, return_inverse=True)[1] % toy.K
    found = study_leak(data, rows, circuit, 0, {'attribution': by_answer})['attribution']
    counts = np.bincount(by_answer) / len(data)
    assert found['bits'] == pytest.approx(-(counts * np.log2(counts)).sum()), 'the answer tells all'
    assert found['most_bits'] == pytest.approx(np.log2(toy.K))


def test_masks_of_controls_start_from_the_ranking_that_the_search_does(circuit, mine, monkeypatch):
    started = []

    def spy(models, dataset, rows, config, *, first_scores, **fields):
        started.append((config.num_classes, first_scores['teacher']))
        raise Spied

    class Spied(Exception):
        pass

    monkeypatch.setattr(learned_masks, 'discover', spy)
    discovery = DiscoveryConfig(num_classes=toy.K, batch_size=16, first_ranking=mine.key)
    context = Context(circuit.fill, discovery=discovery, mesh=toy.one_device())
    rows, alike = toy.rows().train, np.zeros(len(toy.dataset()), np.int32)
    for classes in (alike, np.arange(len(alike)) % 2):
        with pytest.raises(Spied):
            ONE_MASK.scores(toy.model(), toy.dataset(), rows, classes, context=context)
    assert [K for K, _ in started] == [1, 2]
    for _, scores in started:
        np.testing.assert_array_equal(np.argsort(-scores, axis=None), np.arange(toy.L * toy.F))
    check_first_ranking(discovery, toy.dataset(), [toy.teacher_config()])
    of_attribution = dataclasses.replace(discovery, first_ranking='atp')
    answers = toy.dataset().answers
    without = dataclasses.replace(toy.dataset(), counterfactual_answers=answers)
    with pytest.raises(InputError, match=r'^first_ranking=atp needs a counterfactual'):
        check_first_ranking(of_attribution, without, [toy.teacher_config()])


def test_first_rankings_of_two_models_on_a_mesh_are_those_of_one_device():
    search = DiscoveryConfig(num_classes=toy.K, batch_size=16, first_ranking='atp')

    def rank(mesh):
        models = {'teacher': toy.model(mesh), 'student': toy.model(mesh, student=True)}
        return first_rankings(models, toy.dataset(), toy.rows().train, search, mesh=mesh)

    alone, together = rank(toy.one_device()), rank(make_mesh(fsdp=4, tensor=2))
    shapes = {'teacher': toy.teacher_config(), 'student': toy.student_config()}
    assert alone.keys() == together.keys() == shapes.keys()
    for name, shape in shapes.items():
        assert alone[name].shape == (1, shape.num_layers, shape.intermediate_size)
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-4, atol=1e-6)


def test_a_gradient_of_the_whole_model_has_the_room_of_a_step():
    rows_and_columns = lambda **how: DiscoveryConfig(batch_size=64, **how).gradient_tokens(8, 4)
    assert rows_and_columns() == 64 * 8
    assert rows_and_columns(microbatches=2) == 32 * 8
    assert rows_and_columns(remat='full') == 64 * 8 // 4
    assert rows_and_columns(microbatches=8, remat='full') == 16
    assert DiscoveryConfig(batch_size=8, microbatches=1, remat='full').gradient_tokens(8, 80) == 8


def test_methods_whose_classes_problems_lack_are_known_beforehand():
    keys, sums = ('operator_classes', 'one_mask', 'answer_matched_classes'), toy.dataset()
    assert with_classes(keys, sums, 2, 0) == keys
    assert with_classes(keys, sums[sums.labels['operators'] == 0], 2, 0) == keys[1:]


def test_of_one_class_only_one_mask_is_trained(circuit):
    keys = ('one_mask', 'random_classes', 'answer_cut_classes', 'mean_activation')
    assert with_classes(keys, toy.dataset(), 2, 0) == keys
    assert with_classes(keys, toy.dataset(), 1, 0) == ('one_mask', 'mean_activation')
    alike = np.zeros_like(circuit.assignments)
    one = dataclasses.replace(
        circuit, masks=circuit.masks[:1], scores=circuit.scores[:1], assignments=alike
    )
    config = CircuitStudyConfig((0.25,), methods=('answer_matched_classes', 'mean_activation'))
    assert list(run(one, config)) == ['mean_activation']
