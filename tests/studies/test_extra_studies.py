"""Studies that search again, with searches that cost nothing: what they measure and say of it."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import toy_study as toy
from etils import epath

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.masks import binarize
from cdjax.errors import InputError
from cdjax.inference.means import neuron_means
from cdjax.run.options import RunOptions
from cdjax.studies import searches
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.extra import STUDIES, operands, scales, seed_agreement, selectivity_front
from cdjax.studies.run import Run
from cdjax.studies.study import Context
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.objectives import AnySize, FixedDensity
from cdjax.wording import number

DISCOVERY = DiscoveryConfig(num_classes=3, objective=AnySize(density=0.25), least_accuracy=0)
SIZES = (0.25, 1.0)


class ToyRun(Run):
    """A run of the toy study, without files."""

    teacher = functools.cached_property(lambda self: toy.model())


@pytest.fixture
def context(tmp_path):
    inputs = SimpleNamespace(
        dataset=toy.dataset(),
        split=toy.rows(),
        teacher_config=toy.teacher_config(),
        tokenizer=toy.tokenizer(),
        config=SimpleNamespace(task=toy.TASK),
        keeps_right=False,
    )
    run = ToyRun(inputs, epath.Path(tmp_path), toy.one_device(), RunOptions())
    folder = epath.Path(tmp_path)
    config = CircuitStudyConfig(sizes=SIZES, methods=(), max_problems=30)
    return Context(run, DISCOVERY, config, searched(run, DISCOVERY, 0), folder, folder)


@functools.cache
def fill(model):
    return neuron_means(model, toy.dataset()[toy.rows().train])


def searched(run, config, salt, model=None):
    """Circuits of random scores in place of a search: equal for equal seeds and models."""
    model = toy.model() if model is None else model
    shape = model.config
    rng, of_classes = (np.random.default_rng([config.seed, salt, i]) for i in (0, 1))
    scores = rng.random((config.num_classes, shape.num_layers, shape.intermediate_size), np.float32)
    classes = of_classes.integers(config.num_classes, size=len(run.inputs.dataset)).astype(np.int32)
    return Circuit(binarize(scores, 8), scores, fill(model), classes)


@pytest.fixture
def asked(monkeypatch):
    """Replaces searches; returns the names and configs that were asked for."""
    found = {}

    def search(context, name, config, description, *, run=None, models=None):
        found[name] = config
        models = {'teacher': context.run.teacher} if models is None else models
        run = context.run if run is None else run
        return {key: searched(run, config, 0, model) for key, model in models.items()}

    for module in (searches, operands, scales, seed_agreement, selectivity_front):
        monkeypatch.setattr(module, 'search', search)
    return found


def through_json(result):
    return json.loads(json.dumps(result, allow_nan=False))


def test_front(context, asked, monkeypatch):
    study = selectivity_front.selectivity_front('f', weights=(0.0, 2.0), seeds=(0, 1))
    hired = toy.hire_workers(monkeypatch, searches)
    run = dataclasses.replace(context.run, options=RunOptions(workers=2))
    result = through_json(study.measure(dataclasses.replace(context, run=run)))
    assert hired == dict.fromkeys(asked, 2)
    assert len(asked) == 2 * 2 * 2
    objective = asked['core-2-1'].objective
    assert (objective.specific, objective.weights.selectivity) == (0.3, 2)
    assert asked['separate-0-0'].objective.specific is None
    # All neurons: the whole model, of which no circuit has anything of its own.
    for form in result['points']:
        for seeds in form:
            for sizes in seeds:
                assert sizes[-1]['only'] == result['accuracy']
                assert sizes[-1]['only_probability'] == pytest.approx(result['probability'])
    only = selectivity_front.front(result, 'only')
    assert only.shape == (2, 2, 2, 2)
    # Scores that are random by seed alone: weights and forms make no difference.
    np.testing.assert_array_equal(only[0], only[1])
    section = study.present(result)
    assert [len(row) for row in section.tables[0].rows] == [3] * 4
    fixed = dataclasses.replace(DISCOVERY, objective=FixedDensity(density=0.25))
    with pytest.raises(InputError, match='studies=f varies the any_size objective'):
        study.check(context.run.inputs, fixed, toy.one_device())


def test_the_finding_names_the_most_selective_that_work():
    point = lambda only, own: {'only_probability': only, 'selectivity_probability': own}
    result = {
        'forms': ['separate', 'core'],
        'weights': [0, 1],
        'seeds': [0],
        'shares': [0.02, 0.05],
        'probability': 1.0,
        'points': [
            [[[point(0.4, 0.9), point(0.9, 0.1)]], [[point(0.3, 0.8), point(0.6, 0.2)]]],
            [[[point(0.6, 0.05), point(0.9, 0.0)]], [[point(0.55, 0.37), point(0.8, 0.3)]]],
        ],
    }
    finding = selectivity_front.present(result).findings[0].replace('\u00a0', ' ')
    assert 'reach 0.37 in that probability, at 2 %' in finding
    assert 'a core and specific parts and weight 1; they keep 55 %' in finding
    result['probability'] = 2.0  # nothing keeps half of it
    assert 'nothing is said' in selectivity_front.present(result).findings[0]


def test_agreement_of_seeds(context, asked):
    study = seed_agreement.seed_agreement('s', seeds=(0, 1, 2))
    result = through_json(study.measure(context))
    assert asked.keys() == {'0', '1', '2'}
    assert [pair['seeds'] for pair in result['pairs']] == [[0, 1], [0, 2], [1, 2]]
    for pair in result['pairs']:
        assert pair['overlap'][-1] == pair['chance_overlap'][-1] == 1, 'all neurons are all'
        # Random scores agree as chance does.
        assert pair['overlap'][0] == pytest.approx(pair['chance_overlap'][0], abs=0.15)
    section = study.present(result)
    assert 'their classes agree with ARI' in section.findings[0]
    areas = result['areas']
    low, high = areas['cpr_interval']
    assert low <= areas['cpr'] <= high
    assert section.tables[1].rows[0][:2] == ['CPR', number(areas['cpr'])]
    assert len(study.present(result | {'areas': None}).tables) == 1
    same = seed_agreement.seed_agreement('s', seeds=(3, 3)).measure(context)['pairs'][0]
    assert (same['overlap'][0], same['ari']) == (1, 1)


def test_scales(context, asked, monkeypatch):
    other = toy.model(student=True)
    monkeypatch.setattr(scales, 'train_other', lambda context, steps: other)
    study = scales.scales('c', steps=7, seeds=(0, 1))
    result = through_json(study.measure(context))
    assert asked.keys() == {f'{n}-{s}' for n in ('teacher', 'other', 'joint') for s in (0, 1)}
    assert result['neurons'] == {'teacher': 64, 'other': 32}
    for name in ('teacher', 'other'):
        assert sum(result['layer_share'][name]) == pytest.approx(1)
        for how in ('alone', 'joint'):
            for seed in result['only'][f'{name}, {how}']:
                assert seed[-1] == result['accuracy'][name], 'all neurons'
    # Fake searches sort by the seed alone: equal seeds agree wholly, others by chance.
    between = result['classes']['between_models']
    assert (between[0], between[3]) == (1, 1)
    assert abs(between[1]) < 0.3
    section = study.present(result)
    assert 'lasses found apart in the two models agree' in section.findings[0]
    able, unable = ({**result, 'accuracy': {'teacher': 1, 'other': a}} for a in (0.9, 0.03))
    assert 'cannot do the task' not in study.present(able).findings[1]
    assert 'cannot do the task' in study.present(unable).findings[1]


def test_the_other_scale_is_narrower_and_deeper():
    shape = scales.other_scale(toy.teacher_config())
    assert (shape.num_layers, shape.hidden_size, shape.intermediate_size) == (4, 8, 16)


def test_operands_are_compared_where_there_are_three(context):
    with pytest.raises(InputError, match='studies=operands compares three operands with two'):
        STUDIES['operands'].check(context.run.inputs, DISCOVERY, toy.one_device())


def test_problems_of_two_operands_are_a_part_of_the_training():
    task = dataclasses.replace(toy.TASK, operands=3, high=3)
    inputs = [
        SimpleNamespace(dataset=t.encode(toy.tokenizer()), tokenizer=toy.tokenizer())
        for t in (task, dataclasses.replace(task, operands=2))
    ]
    for each in inputs:
        each.split = SimpleNamespace(train=np.arange(len(each.dataset) - 2))
    both = operands.mixed(*inputs)
    assert both.tokens.shape[1] == 7
    two = both.lengths == 5
    assert two.mean() == pytest.approx(0.25, abs=0.01)
    assert {len(p) for p in both.prompts[two]} == {4}
    held_out = set(inputs[1].dataset.prompts[-2:])
    assert not held_out & set(both.prompts)
    row = np.flatnonzero(two)[0]
    of = inputs[1].dataset
    at = list(of.prompts).index(both.prompts[row])
    np.testing.assert_array_equal(both.tokens[row, :5], of.tokens[at])
    assert both.answers[row] == of.answers[at]
    assert both.hash != of.hash


def test_masks_of_two_tasks(context, asked, monkeypatch):
    monkeypatch.setattr(operands, 'two_operands', lambda inputs: inputs)
    monkeypatch.setattr(operands, '_train', lambda context, runs, steps: toy.model())
    study = operands.operands('o', steps=5, seeds=(0, 1))
    result = through_json(study.measure(context))
    assert asked.keys() == {'three-0', 'three-1', 'two-0', 'two-1'}
    assert all(config.num_classes == 1 for config in asked.values())
    for of in ('three', 'two'):
        for task in ('three', 'two'):
            for seed in result['kept'][of][task]:
                assert seed[-1] == pytest.approx(result['probability'][task])
    # The fake searches of both tasks are one and the same.
    assert result['overlap'][0][0] == 1
    assert result['chance_overlap'][0][0] < 0.5
    section = study.present(result)
    assert 'they overlap by 1.00 against' in section.findings[0]
