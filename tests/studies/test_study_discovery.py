"""Circuits for classes that are fixed before the search, by a scheme of the registry."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.classes import CLASSES, Sorting
from cdjax.circuits.methods import ATP, LEARNED, Context
from cdjax.data import save_tokenizer
from cdjax.errors import InputError
from cdjax.evaluation.ranks import rank_correlation
from cdjax.models import save_huggingface
from cdjax.run.options import RunOptions
from cdjax.studies import discovery
from cdjax.studies.circuits.study import named
from cdjax.studies.discovery import DiscoveryStudyConfig, study_discovery
from cdjax.studies.inputs import InputsConfig
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.objectives import AnySize
from cdjax.training.optimizer import OptimizerConfig

SEARCH = DiscoveryConfig(
    OptimizerConfig(2), 3, AnySize(density=0.25, smallest=0.1), batch_size=16, least_accuracy=0
)


@functools.cache
def model():
    return toy.random_model(dataclasses.replace(toy.teacher_config(), num_layers=1))


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    save_huggingface(model(), folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    return InputsConfig(toy.TASK, share=0.5, test=0.25, teacher=str(folder / 'teacher'))


def run(inputs, folder, classes, **fields):
    fixed = dataclasses.replace(SEARCH, num_classes=DiscoveryConfig().num_classes)
    search = fixed if CLASSES[classes].given or 'classes_of' in fields else SEARCH
    config = DiscoveryStudyConfig(inputs, search, classes=classes, **fields)
    return study_discovery(config, folder, options=RunOptions(check_gradients=False))['teacher']


def test_classes_of_a_scheme_are_those_of_the_circuits(inputs, tmp_path):
    circuit = run(inputs, tmp_path / 'run', 'operators')
    np.testing.assert_array_equal(circuit.assignments, toy.dataset().labels['operators'])
    # There are two pairs, whatever the search would have learned.
    assert circuit.num_classes == 2
    assert not circuit.classifier
    facts = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert facts['classes'] == 'operators'
    assert Circuit.load(tmp_path / 'run' / 'circuits' / 'teacher').info['classes'] == 'operators'
    assert named(LEARNED, circuit).title == 'operator classes'
    checked = circuit.info['sanity']
    assert checked['dead'] == 0, 'of random weights every neuron varies'
    rows = toy.rows().train
    context = Context(circuit.fill, mesh=toy.one_device())
    one = np.zeros(len(rows), np.int32)
    (attributed,) = ATP.scores(
        model(), toy.dataset()[rows], np.arange(len(rows)), one, context=context
    )
    expected = rank_correlation(circuit.scores, attributed, np.ones_like(attributed, bool))
    assert checked['rank'] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(InputError, match='holds another run'):
        run(inputs, tmp_path / 'run', 'learned')


def test_classes_of_other_circuits_are_taken_as_they_are_or_shuffled(inputs, tmp_path):
    first = run(inputs, tmp_path / 'first', 'operators')
    path = str(tmp_path / 'first' / 'circuits' / 'teacher')
    same = run(inputs, tmp_path / 'same', 'learned', classes_of=path)
    np.testing.assert_array_equal(same.assignments, first.assignments)
    assert not same.classifier
    assert named(LEARNED, same).title == 'operator classes', 'what they were is what they are'
    matched = run(inputs, tmp_path / 'matched', 'answer_matched', classes_of=path)
    assert named(LEARNED, matched).title == 'answer-matched classes'
    assert (matched.assignments != first.assignments).any()
    tables = [
        np.unique([toy.dataset().answer_ids, c.assignments], axis=1, return_counts=True)
        for c in (first, matched)
    ]
    for ours, theirs in zip(*tables, strict=True):
        np.testing.assert_array_equal(ours, theirs)  # they tell as much of the answer
    facts = json.loads((tmp_path / 'matched' / 'config.json').read_text())
    assert facts['classes_of'] == [path, first.hash]
    one = run(inputs, tmp_path / 'one', 'one')
    assert one.num_classes == 1
    with pytest.raises(InputError, match='is one mask for all problems, and sorts none'):
        run(inputs, tmp_path / 'no', 'learned', classes_of=str(tmp_path / 'one/circuits/teacher'))
    with pytest.raises(InputError, match='classes=random do not go by circuits'):
        run(inputs, tmp_path / 'no', 'random', classes_of=path)
    other = dataclasses.replace(inputs, split_seed=1)
    with pytest.raises(InputError, match=r'--classes_of=.* comes from .*another split'):
        run(other, tmp_path / 'no', 'learned', classes_of=path)
    assert not (tmp_path / 'no').exists()


def test_a_search_starts_from_the_ranking_of_a_method(inputs, tmp_path, monkeypatch):
    started, discover = [], discovery.discover

    def spy(*args, first_scores, **fields):
        started.append(first_scores['teacher'])
        return discover(*args, first_scores=first_scores, **fields)

    monkeypatch.setattr(discovery, 'discover', spy)
    ranked = dataclasses.replace(SEARCH, num_classes=4, first_ranking='atp')
    config = DiscoveryStudyConfig(inputs, ranked, classes='operators')
    study = lambda: study_discovery(
        config, tmp_path / 'run', options=RunOptions(check_gradients=False)
    )['teacher']
    circuit = study()
    rows = toy.rows().train
    context = Context(circuit.fill, mesh=toy.one_device())
    one = np.zeros(len(toy.dataset()), np.int32)
    expected = ATP.scores(model(), toy.dataset(), rows, one, context=context)
    np.testing.assert_allclose(started[0], expected, rtol=1e-5)
    # Two steps do not bring the first neurons of all to the end.
    first = np.argsort(-expected, axis=None)[: circuit.size // 4]
    assert circuit.masks.reshape(2, -1)[:, first].mean() > 0.9
    study()
    assert len(started) == 1, 'circuits that are there need no ranking'


def test_a_scheme_that_asks_the_model_gets_its_attributions(inputs, tmp_path, monkeypatch):
    asked = {}

    def sort_in(model, dataset, rows, num_classes, context):
        asked.update(K=num_classes, rows=rows, fill=context.fill.shape)
        return Sorting(dataset, num_classes, rows=rows, vectors=None)

    found = lambda sorting: (np.arange(len(sorting.dataset)) % 2).astype(np.int32)
    monkeypatch.setattr(discovery, 'sort_in', sort_in)
    scheme = dataclasses.replace(CLASSES['em'], assign=found)
    monkeypatch.setitem(CLASSES._entries, 'em', scheme)
    circuit = run(inputs, tmp_path / 'run', 'em')
    assert (asked['K'], asked['fill']) == (3, (1, toy.T, toy.F))
    np.testing.assert_array_equal(asked['rows'], toy.rows().train)
    np.testing.assert_array_equal(circuit.assignments, np.arange(len(toy.dataset())) % 2)


@pytest.mark.parametrize(
    ('scheme', 'title'),
    [
        ('learned', 'learned classes'),
        ('one', 'one mask'),
        ('em', 'EM classes'),
        ('sizes', 'sizes classes'),  # a scheme of a plugin, for which no method of ours is trained
    ],
)
def test_a_study_calls_circuits_by_how_their_problems_were_sorted(scheme, title):
    circuit = Circuit(*[np.zeros((2, 1, 4))] * 4, info={'classes': scheme})
    method = named(LEARNED, circuit)
    assert (method.key, method.title) == ('learned', title)


@pytest.mark.parametrize(
    ('classes', 'said'),
    [
        ('answer_matched', 'classes=answer_matched are drawn from those of circuits'),
        ('sizes', "there is no class scheme 'sizes': choose from learned, one"),
    ],
)
def test_classes_that_cannot_be_had_are_refused(inputs, tmp_path, classes, said):
    with pytest.raises(InputError, match=said):
        run(inputs, tmp_path / 'run', classes)
    assert not (tmp_path / 'run').exists()
