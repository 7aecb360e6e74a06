import json

import numpy as np
import pytest
import toy_study as toy
from etils import epath

from cdjax.circuits.circuit import Circuit
from cdjax.inference.means import neuron_means
from cdjax.planted import PLANTED_TEACHERS
from cdjax.planted.ground_truth import GroundTruth
from cdjax.report.findings import say
from cdjax.studies.extra.planted_control import NEGATIVE, POSITIVE, by_method, present
from cdjax.studies.ground_truth import planted_in
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.run import Run
from cdjax.studies.settle.protocol import GATES, NO_CLASSES
from cdjax.wording import percent

PASSED = {gate.key: gate.bound + (0.01 if gate.above else -0.01) for gate in GATES}


def test_gates_that_are_passed():
    section = present({POSITIVE: PASSED, NEGATIVE: {'selectivity': NO_CLASSES.bound}})
    (finding,) = section.findings
    assert finding.startswith('Of 8 gates the search passes 8 (one teacher and one seed')
    (table,) = section.tables
    assert [row[0] for row in table.rows] == [gate.text for gate in (*GATES, NO_CLASSES)]
    assert {row[-1] for row in table.rows} == {'passed'}


def test_a_gate_that_fails_is_named():
    section = present({POSITIVE: PASSED | {'wrong': 0.9}, NEGATIVE: {'selectivity': 0.5}})
    (finding,) = section.findings
    failed = [gate.text for gate in GATES if gate.key == 'wrong'] + [NO_CLASSES.text]
    assert f'passes 6; it fails {", ".join(failed)}' in finding
    assert [row[-1] for row in section.tables[0].rows].count('failed') == 2


def test_what_could_not_be_measured_is_no_pass():
    section = present({POSITIVE: PASSED | {'recall': None}})
    assert 'it fails recall at the causal size' in section.findings[0]


def test_every_method_is_measured_beside_a_search_that_finds_all(tmp_path, monkeypatch):
    """In the teacher that ships; a search that returns what is planted costs nothing."""
    cheap = 'cdjax.studies.extra.planted_control.methods_by_default'
    monkeypatch.setattr(cheap, lambda trained: ('deviation', 'random_living_masks'))
    inputs = InputsConfig(task='lookup', teacher=str(PLANTED_TEACHERS / POSITIVE))
    run = Run(Inputs(inputs), epath.Path(tmp_path), toy.one_device())
    truth, dataset = planted_in(run), run.inputs.dataset
    fill = neuron_means(run.teacher, dataset[run.inputs.split.train])

    def discover(num_classes, seed):
        masks = truth.necessary if num_classes > 1 else truth.necessary.any(axis=0)[None]
        classes = truth.assignments * (num_classes > 1)
        return Circuit(masks, masks.astype(np.float32), fill, classes.astype(np.int32))

    told = json.loads(json.dumps(by_method(run, truth, discover, 0, 100), allow_nan=False))
    of = told['recovery']['methods']
    assert list(of) == ['learned', 'one_mask', 'deviation', 'random_living_masks']
    # Classes need more or fewer neurons than the causal size, their mean.
    assert of['learned']['auroc'] == 1
    assert of['learned']['nmi'] == pytest.approx(1)
    assert of['learned']['recall'] == pytest.approx(1, abs=0.05)
    assert of['learned']['kept'] == pytest.approx(told['recovery']['kept'], abs=0.01)
    assert told['recovery']['kept'] > 0.8
    for key in ('one_mask', 'deviation'):
        assert of['learned']['auroc'] > of[key]['auroc'] > of['random_living_masks']['auroc']
    (recovery,) = present({POSITIVE: PASSED | told}).recoveries
    assert say('recovery', recovery.found, recovery.methods).startswith(
        f'Of the {truth.causal_size}\u00a0neurons that a planted class needs, a circuit of as many '
        f'holds {percent(of["learned"]["recall"])} with learned classes and '
    )


def test_a_ground_truth_that_says_nothing_of_the_teacher_is_passed_over(tmp_path):
    for name, known in ((POSITIVE, True), (NEGATIVE, False)):
        inputs = InputsConfig(task='lookup', teacher=str(PLANTED_TEACHERS / name))
        run = Run(Inputs(inputs), epath.Path(tmp_path), toy.one_device())
        assert (planted_in(run) is not None) == known
    truth = GroundTruth.load(PLANTED_TEACHERS / POSITIVE)
    folder = PLANTED_TEACHERS / POSITIVE
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for changed in ('model', 'data'):
        for end in ('json', 'safetensors'):
            (tmp_path / f'ground_truth.{end}').unlink()
        GroundTruth(
            truth.shared, truth.specific, truth.necessary, truth.living, truth.assignments,
            truth.info | {changed: 'x'},
        ).save(tmp_path)  # fmt: skip
        inputs = InputsConfig(task='lookup', teacher=str(tmp_path))
        assert planted_in(Run(Inputs(inputs), epath.Path(tmp_path), toy.one_device())) is None
