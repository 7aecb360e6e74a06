"""A model that is its own teacher, one that is not, and the table of mechanisms by hand."""

import dataclasses

import numpy as np
import pytest
import toy_study as toy
from etils import epath

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.masks import binarize
from cdjax.circuits.methods import METHODS
from cdjax.circuits.methods.method import Context
from cdjax.data import save_tokenizer
from cdjax.errors import InputError
from cdjax.evaluation.selectivity import specific_parts
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.models import save_huggingface
from cdjax.report.arm_figures import mechanism_table
from cdjax.report.figure_dots import mechanism_dots
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.mechanism import MEASURES, Mechanism, MechanismConfig, summarise_mechanism
from cdjax.studies.run import Run
from cdjax.training.discovery import DiscoveryConfig


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoints')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    save_huggingface(toy.model(), folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    config = InputsConfig(toy.TASK, share=0.5, test=0.25, teacher=str(folder / 'teacher'))
    return Run(Inputs(config), epath.Path(tmp_path_factory.mktemp('run')), toy.one_device())


@pytest.fixture(scope='module')
def mechanism(run):
    """The circuits that AtP finds in the teacher, of the two operators."""
    data, train = run.inputs.dataset, run.inputs.split.train
    fill, classes = neuron_means(toy.model(), data[train]), data.labels['operators']
    scores = METHODS['atp'].scores(
        toy.model(), data, train, classes, context=Context(fill=fill, mesh=toy.one_device())
    )
    circuit = Circuit(binarize(scores, 12), scores, fill, classes.astype(np.int32))
    return Mechanism(run, circuit, DiscoveryConfig(), MechanismConfig('atp', sources=2))


PAIRS = ((0, 0), (1, 1))


def test_a_teacher_has_its_own_mechanism_and_another_model_has_not(mechanism):
    own = specific_parts(mechanism._teacher.masks)
    itself = mechanism.measure(toy.model(), 'itself', own, PAIRS, 0)
    assert itself['interchange'] == itself['correlation'] == pytest.approx(1)
    assert itself['selectivity'] == pytest.approx(itself['teacher_selectivity'])
    assert itself['interchange_unpatched'] == 0, 'moved answers are not those before'
    assert 0 < itself['moved'] <= 1
    assert itself['kept'] == pytest.approx(itself['only'] / itself['accuracy'])
    assert itself['method'] == 'atp'
    # What is meant for each class is what the teacher's own parts are; random neurons are not.
    assert itself['paired'] == 1 > 2 * itself['paired_random']
    assert 0 < itself['paired_moved'] <= 1
    other = mechanism.measure(toy.model(seed=4), 'other', own, PAIRS, 0)
    assert max(other['interchange'], other['paired']) < 0.5
    # The circuits are cut from the ranking that is asked for what is each one's own.
    assert itself['auroc'] > 0.75 > other['auroc']
    assert itself['precision'] > other['precision']
    assert other['teacher_selectivity'] == itself['teacher_selectivity']
    assert 0 <= other['classes'] <= 1


def test_only_what_is_paired_is_patched(mechanism):
    own = specific_parts(mechanism._teacher.masks)
    elsewhere = own & np.array([True, False])[:, None]
    # Its first layer is held against the teacher's first; the second is not looked at.
    first = mechanism.measure(toy.model(), 'itself', own, PAIRS[:1], 0)
    assert first['paired'] == 1
    alone = mechanism.measure(toy.model(), 'itself', elsewhere, PAIRS, 0)
    assert alone['paired'] < 1
    assert 0 < first['paired_moved'] < alone['paired_moved']
    # The students of every seed have random neurons of their own; nothing else of them is drawn.
    by_seed = [mechanism._paired(toy.model(), elsewhere, PAIRS, seed) for seed in range(4)]
    assert by_seed[0] == {key: alone[key] for key in by_seed[0]}
    assert len({told['paired_random'] for told in by_seed}) > 1
    assert {told['paired'] for told in by_seed} == {alone['paired']}


def test_circuits_are_the_smallest_that_keep_enough(mechanism, run, monkeypatch):
    model, train = toy.model(seed=4), run.inputs.split.train
    data, rows = run.inputs.dataset, mechanism._rows
    fill = neuron_means(model, data[train])
    scores = METHODS['atp'].scores(
        model, data, train, mechanism._classes, context=Context(fill=fill, mesh=toy.one_device())
    )
    # Answers that the model gives, so that what it keeps is how often they stay.
    said = predict(model, data[rows]).tokens
    problems = dataclasses.replace(data[rows], answers=said)
    monkeypatch.setattr(mechanism, '_problems', problems)
    ablated = {'classes': mechanism._classes[rows], 'fill': fill}
    choose = mechanism._choose
    assert choose.sum() == len(rows) // 2
    right = {
        size: predict(model, problems, masks=binarize(scores, size), **ablated).correct
        for size in (12, 18)  # of 64 neurons
    }
    kept = {size: found[choose].mean() for size, found in right.items()}
    assert kept[12] < kept[18] < 1
    blocks = specific_parts(binarize(scores, 12))

    def measured(enough):
        monkeypatch.setattr('cdjax.studies.mechanism.FAITHFUL', enough)
        return mechanism.measure(model, 'other', blocks, PAIRS, 0)

    second, none = measured(kept[18]), measured(1.01)
    assert (second['faithful'], second['faithful_share']) == (True, 18 / 64)
    assert (none['faithful'], none['faithful_share']) == (False, None)
    assert measured(kept[18] + 0.01)['faithful_share'] > 18 / 64
    monkeypatch.setattr('cdjax.studies.mechanism.MOST', 0.3)
    assert measured(kept[18] + 0.01)['faithful_share'] is None, 'no larger ones are tried'
    assert second['kept'] == none['kept'] == pytest.approx(right[12][~choose].mean())
    assert second['chosen_on'] == choose.sum()
    # What is told of circuits is of those of the size; where none is enough, of the teacher's.
    of_class = [~choose & (mechanism._of_row == k) for k in (0, 1)]
    for size, found in ((18, second), (12, none)):
        own = specific_parts(binarize(scores, size))
        left = [predict(model, problems, masks=1.0 - own[j : j + 1], fill=fill) for j in (0, 1)]
        mean = lambda j, k, left=left: left[j].probability[of_class[k]].mean()
        selective = (mean(0, 1) + mean(1, 0) - mean(0, 0) - mean(1, 1)) / 2
        assert found['selectivity'] == pytest.approx(selective, abs=1e-5)


def told(**changes):
    return {key: 0.5 for key in MEASURES} | {'faithful': True} | changes


RUNS = [{'arm': arm, 'seed': seed} for seed in (0, 1) for arm in ('kd', 'circuits')]
FOUND = {
    ('kd', 0): told(interchange=0.2, classes=0.1),
    ('kd', 1): told(interchange=0.3, classes=0.2),
    ('circuits', 0): told(interchange=0.5, classes=0.4),
    ('circuits', 1): told(interchange=0.9, classes=0.7, faithful=False),
}


def test_the_table_compares_circuits_where_those_of_both_are_faithful():
    kd, circuits = summarise_mechanism(RUNS, FOUND)
    assert (kd['arm'], kd['seeds'], kd['faithful']) == ('kd', 2, 2)
    assert 'gain' not in kd['interchange']
    assert (circuits['seeds'], circuits['faithful']) == (2, 1)
    assert circuits['interchange']['values'] == [0.5]
    assert circuits['interchange']['gain'] == pytest.approx(0.3)
    assert circuits['interchange']['gain_interval'] is None
    assert circuits['classes']['gain'] == pytest.approx(0.4)
    # Two differences, .3 and .5: sd .1 sqrt 2, t(.975, 1) = 12.706.
    half = 12.7062 * (0.1 * np.sqrt(2)) / np.sqrt(2)
    assert circuits['classes']['gain_interval'] == pytest.approx((0.4 - half, 0.4 + half), rel=1e-3)


def test_the_table_is_told_and_drawn():
    rows = summarise_mechanism(RUNS, FOUND)
    table = [
        {'arm': arm, 'title': title, 'phrase': title, 'colour': 'blue', 'mean': 0.5}
        for arm, title in (('kd', 'KD'), ('circuits', 'KD + CKA of class circuits'))
    ]
    found = {'table': table, 'runs': RUNS, 'mechanism': rows}
    text = mechanism_table({'nothing': found, 'partial': {'table': table}})
    assert 'interchange accuracy' in text
    assert '+0.400 [' in text
    assert '1 of 2 students' in text
    assert max(map(len, text.splitlines())) <= 100
    chart = mechanism_dots('nothing', found)
    assert len(chart.panels) == len(MEASURES)
    assert mechanism_dots('nothing', {'table': table, 'runs': RUNS}) is None


def test_a_method_that_draws_finds_no_circuits():
    with pytest.raises(InputError, match='mechanism=random_masks draws masks'):
        MechanismConfig('random_masks')
    with pytest.raises(InputError, match="no method 'x'"):
        dataclasses.replace(MechanismConfig(), method='x')
