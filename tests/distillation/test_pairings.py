import copy
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.pairings import (
    PAIRINGS,
    Context,
    Pairing,
    check_pairs,
    impact,
    likeness,
    pair_layers,
)
from cdjax.distillation.pairings.depth import pair_by_depth
from cdjax.distillation.pairings.impact import ablation_impact
from cdjax.distillation.pairs import Unit, pairs_from_numbers, pairs_to_numbers
from cdjax.errors import InputError
from cdjax.inference.predictions import predict


@pytest.mark.parametrize(
    ('student', 'teacher', 'pairs'),
    [
        (2, 2, ((0, 0), (1, 1))),
        (2, 4, ((0, 1), (1, 3))),
        (4, 2, ((0, 0), (1, 0), (2, 1), (3, 1))),
        (16, 32, tuple((s, 2 * s + 1) for s in range(16))),
        (1, 5, ((0, 4),)),
    ],
)
def test_layers_are_paired_where_they_end_at_the_same_depth(student, teacher, pairs):
    assert pair_by_depth(student, teacher) == pairs


def shapes(student, teacher):
    config = toy.teacher_config()
    return tuple(dataclasses.replace(config, num_layers=n) for n in (student, teacher))


def test_texts():
    assert pair_layers('last', *shapes(16, 32)) == ((15, 31),)
    assert pair_layers('depth', *shapes(2, 4)) == ((0, 1), (1, 3))
    assert pair_layers('0:3,1:2', *shapes(2, 4)) == ((0, 3), (1, 2))


@pytest.mark.parametrize('text', ['first', '', '3', '1:2:3', '1:a', '1:2,'])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(InputError, match=r'write last, depth, .*or STUDENT:TEACHER pairs'):
        pair_layers(text, *shapes(4, 4))


@pytest.mark.parametrize('text', ['2:0', '0:4', '-1:0', '0:-1'])
def test_layers_that_a_model_lacks_are_refused(text):
    with pytest.raises(InputError, match='the student has 0 to 1, the teacher 0 to 3'):
        pair_layers(text, *shapes(2, 4))


@pytest.mark.parametrize(('student', 'teacher'), [(2, 2), (4, 2), (3, 8), (16, 32), (5, 3), (1, 2)])
def test_shuffled_layers_keep_none_of_their_depth(student, teacher):
    by_depth = pair_by_depth(student, teacher)
    drawn = {
        seed: pair_layers('shuffled', *shapes(student, teacher), context=Context(seed=seed))
        for seed in range(4)
    }
    for pairs in drawn.values():
        assert [s for s, _ in pairs] == list(range(student))
        assert all(pair != own for pair, own in zip(pairs, by_depth, strict=True))
    if student > 4:
        assert len(set(drawn.values())) > 1


def test_shuffling_needs_another_layer():
    with pytest.raises(InputError, match='the teacher has one layer'):
        pair_layers('shuffled', *shapes(2, 1))


# -- By what the layers do ------------------------------------------------------------------------


def test_impact_is_the_accuracy_that_ablation_costs(monkeypatch):
    cost = np.array([0.1, 0.4, 0.0, -0.05])

    def predict(model, dataset, *, masks=None, fill=None, site=None):
        if masks is None:
            return SimpleNamespace(accuracy=0.9)
        assert site == 'neurons'
        (layer,) = np.flatnonzero(~masks[0].any(axis=1))
        assert masks[0].all(axis=1).sum() == len(cost) - 1
        return SimpleNamespace(accuracy=0.9 - cost[layer])

    monkeypatch.setattr(impact, 'predict', predict)
    monkeypatch.setattr(impact, 'neuron_means', lambda *_, **__: None)
    model = SimpleNamespace(config=shapes(4, 4)[0])
    found = impact.ablation_impact(model, None, name='teacher')
    np.testing.assert_allclose(found, [0.25, 1, 0, -0.125])
    cost[:] = [0, -0.1, 0, 0]
    with pytest.raises(InputError, match=r'the teacher answers 90\.0% of the problems'):
        impact.ablation_impact(model, None, name='teacher')


@pytest.mark.parametrize('site', ['neurons', 'head_out'])
def test_impact_is_that_of_the_units_that_are_compared(site):
    """A layer whose units write nothing loses nothing without them, and the other layer all."""
    model, data = copy.deepcopy(toy.model()), toy.dataset()
    part = {'neurons': model.layers.mlp.down, 'head_out': model.layers.attention.o}[site]
    part.weight = part.weight.at[0].set(0)
    own = dataclasses.replace(data, answers=predict(model, data).tokens)
    np.testing.assert_allclose(ablation_impact(model, own, name='teacher', site=site), [0, 1])


@pytest.mark.parametrize(
    ('site', 'ablated'),
    [
        ('neurons', 'neurons'),
        ('head_out', 'head_out'),
        ('mlp_out', 'mlp_out'),
        ('residual', 'neurons'),
    ],
)
def test_what_is_compared_is_ablated_but_the_stream_itself(monkeypatch, site, ablated):
    asked = []

    def ablation_impact(model, dataset, *, site, **_):
        asked.append(site)
        return np.array([0.3, 1.0])

    monkeypatch.setattr(impact, 'ablation_impact', ablation_impact)
    context, data = Context(site), toy.dataset()
    assert impact.nearest(None, None, data, np.arange(3), context=context) == ((0, 0), (1, 1))
    assert asked == [ablated] * 2


@pytest.mark.parametrize(
    ('most', 'nearest', 'one_to_one'),
    [
        (None, ((0, 0), (1, 2), (2, 2)), ((0, 0), (1, 2), (2, 1))),
        (2, ((1, 2), (2, 2)), ((1, 2), (2, 1))),
        (1, ((1, 2),), ((1, 2),)),
    ],
)
def test_pairs_by_impact(monkeypatch, most, nearest, one_to_one):
    # The student's 1 and .9 are both nearest to the teacher's 1. One to one, 1 with 1 and .9 with
    # .7 differ by .2, the other way round by .4.
    of = {'student': np.array([0.1, 1, 0.9]), 'teacher': np.array([0, 0.7, 1])}
    monkeypatch.setattr(impact, 'ablation_impact', lambda model, *_, name, **__: of[name])
    data, context = toy.dataset(), Context(most=most)
    call = lambda pair: pair(None, None, data, np.arange(3), context=context)
    assert call(impact.nearest) == nearest
    assert call(impact.one_to_one) == one_to_one


def test_hungarian_matching_finds_layers_that_are_rotated_and_permuted(monkeypatch):
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(200, 4, 12))
    rotation, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    order = [2, 0, 3]
    student = teacher[:, order] @ rotation + 0.05 * rng.normal(size=(200, 3, 12))
    student[:, 1] += rng.normal(size=(200, 12))
    of = {'student': student.astype(np.float32), 'teacher': teacher.astype(np.float32)}
    monkeypatch.setattr(
        likeness, 'answer_logits_and_activations', lambda model, *_, **__: (None, of[model])
    )
    data = toy.dataset()
    call = lambda most: likeness.hungarian_cka(
        'student', 'teacher', data, np.arange(4), context=Context(most=most)
    )
    assert call(None) == ((0, 2), (1, 0), (2, 3))
    assert call(2) == ((0, 2), (2, 3))  # the one with noise on it is the least alike


OF_LAYERS = [key for key, p in PAIRINGS.items() if p.reads_models and not p.of_heads]


@pytest.mark.parametrize('key', OF_LAYERS)
def test_models_that_do_the_same_are_paired_with_themselves(key, monkeypatch):
    monkeypatch.setattr(impact, 'ablation_impact', lambda *_, **__: np.array([0.3, 1.0]))
    model, data = toy.model(), toy.dataset()
    assert pair_layers(key, model, model, data, np.arange(20)) == ((0, 0), (1, 1))


def test_what_layers_do_is_asked_of_trained_students_alone():
    small, large = shapes(2, 4)
    check_pairs('hungarian_cka', small, large, trained=True, most=1)
    with pytest.raises(InputError, match='a student from nothing does nothing yet'):
        check_pairs('hungarian_cka', small, large, trained=False)
    with pytest.raises(InputError, match='cannot be told from shapes'):
        pair_layers('ablation_impact', small, large)
    with pytest.raises(InputError, match='most_pairs=0'):
        check_pairs('hungarian_cka', small, large, trained=True, most=0)
    with pytest.raises(InputError, match='layer_pairs=depth weighs none'):
        check_pairs('depth', small, large, trained=True, most=2)


# -- Single heads ---------------------------------------------------------------------------------


def heads(*sides):
    """Pairs `((student layer, head, teacher layer, head), ...)`."""
    return tuple((Unit(*side[:2]), Unit(*side[2:])) for side in sides)


def test_impact_of_single_heads():
    """Heads that write nothing are worth nothing."""
    model, data = copy.deepcopy(toy.model()), toy.dataset()
    width = model.config.head_dim
    o = model.layers.attention.o
    o.weight = o.weight.at[0].set(0).at[1, :width].set(0)
    own = dataclasses.replace(data, answers=predict(model, data).tokens)
    found = ablation_impact(model, own, name='teacher', site='head_out', each_unit=True)
    assert found.shape == (2, 4)
    assert not found[0].any(), 'writes nothing'
    assert found[1, 0] == 0, 'writes nothing'
    assert found[1].max() == 1


def test_heads_are_paired_by_impact(monkeypatch):
    of = {
        'student': np.array([[0.1, 1.0], [0.9, 0.0]]),
        'teacher': np.array([[0.0, 0.7], [1.0, 0.1]]),
    }
    monkeypatch.setattr(impact, 'ablation_impact', lambda model, *_, name, **__: of[name])
    model, data = toy.model(student=True), toy.dataset()
    context = Context('head_out', most=2)
    call = lambda key, **changes: pair_layers(
        key, model, model, data, np.arange(3), context=dataclasses.replace(context, **changes)
    )
    assert call('head_impact') == heads((0, 1, 1, 0), (1, 0, 1, 0))
    assert call('head_one_to_one') == heads((0, 1, 1, 0), (1, 0, 0, 1))
    assert call('head_impact', most=None)[0] == heads((0, 0, 1, 1))[0]
    for seed in range(5):
        drawn = call('head_shuffled', seed=seed)
        assert [student for student, _ in drawn] == [Unit(0, 1), Unit(1, 0)]
        assert all(teacher != Unit(1, 0) for _, teacher in drawn)


def test_texts_of_heads():
    context = Context('head_out')
    call = lambda text: pair_layers(text, *shapes(2, 4), context=context)
    assert call('0.1:3.0,1.0:2.1') == heads((0, 1, 3, 0), (1, 0, 2, 1))
    for text in ('0.4:3.0', '0.0:4.0', '0.-1:0.0'):
        with pytest.raises(InputError, match='has 0 to 1 of 4 heads, the teacher 0 to 3 of 4'):
            call(text)
    for text in ('0.1:3', '0.1', '0.1:3.0.1', '.1:0.0'):
        with pytest.raises(InputError, match='or STUDENT:TEACHER pairs'):
            call(text)


@pytest.mark.parametrize('text', ['0.1:3.0', 'head_impact', 'head_one_to_one', 'head_shuffled'])
def test_heads_are_paired_where_there_are_any(text):
    with pytest.raises(InputError, match='align_site=neurons has none: set align_site=head_out'):
        check_pairs(text, *shapes(2, 4), trained=True)
    check_pairs(text, *shapes(2, 4), trained=True, site='head_out')


@pytest.mark.parametrize('pairs', [((0, 3), (1, 2)), heads((0, 1, 3, 0))])
def test_pairs_as_results_keep_them(pairs):
    assert pairs_from_numbers(json.loads(json.dumps(pairs_to_numbers(pairs)))) == pairs


def test_a_pairing_of_a_users_own_is_known_by_its_key_and_held_to_the_layers():
    PAIRINGS.add(Pairing('first', 'the first layers', lambda *_, context: ((0, 0),)))
    PAIRINGS.add(Pairing('beyond', 'none there is', lambda *_, context: ((0, 9),)))
    try:
        assert pair_layers('first', *shapes(3, 5)) == ((0, 0),)
        with pytest.raises(InputError, match='0:9 is not a pair of layers'):
            check_pairs('beyond', *shapes(3, 5), trained=False)
    finally:
        PAIRINGS.remove('first')
        PAIRINGS.remove('beyond')
