"""What is told of each method beside a ground truth, on a random model."""

import numpy as np
import pytest
import toy_study as toy
from artefacts import TYPES, fields, leaves

from cdjax.circuits.circuit import Circuit, model_hash
from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.planted.ground_truth import GroundTruth
from cdjax.planted.plan import PlanConfig, draw_plan
from cdjax.studies import ground_truth as ground_truth_study
from cdjax.studies.ground_truth import read_ground_truth, study_recovery
from cdjax.studies.inputs import Inputs, InputsConfig

PASSES = {'mesh': None, 'tokens_per_pass': 4096}
PLAN = draw_plan(PlanConfig(3, 4), 2, toy.L, toy.F)


def ground_truth(necessary=None, **info):
    info = {'model': model_hash(toy.model()), 'data': toy.dataset().hash} | info
    return GroundTruth(
        PLAN.shared,
        PLAN.specific,
        PLAN.circuits if necessary is None else necessary,
        np.ones((toy.L, toy.F), bool),
        toy.dataset().labels['operators'],
        info,
    )


def circuit(scores, assignments):
    fill = np.zeros((toy.L, toy.T, toy.F), np.float32)
    return Circuit(scores > 0.5, scores.astype(np.float32), fill, assignments)


def test_every_method_is_told_as_documented(monkeypatch):
    monkeypatch.setattr(ground_truth_study, 'LEADING', (0.5, 1.0))
    truth, rows = ground_truth(), toy.rows().test
    ours = circuit(PLAN.circuits * 1.0, truth.assignments)
    one = circuit(PLAN.shared[None] * 1.0, np.zeros(len(toy.dataset()), np.int32))
    keys = ('learned', 'one_mask', 'random_masks', 'answer_cut_classes')
    found = study_recovery(
        truth, toy.model(), ours, {'one_mask': one}, keys, toy.dataset(), rows, seed=0, **PASSES
    )
    assert (found['classes'], found['size'], found['planted']) == (2, 14, 22)
    # What was not run is left out, and what draws is the mean of its draws.
    assert list(found['methods']) == ['learned', 'one_mask', 'random_masks']
    of = found['methods']
    assert of['learned']['auroc'] == of['learned']['recall'] == of['learned']['nmi'] == 1
    assert of['one_mask']['shared'] == 1
    # Ours are the planted ones, and one mask for all is another circuit.
    assert of['learned']['kept'] == found['kept']
    classes = truth.assignments[rows]
    said = predict(
        toy.model(), toy.dataset()[rows], masks=PLAN.circuits, classes=classes, fill=ours.fill
    )
    assert found['kept'] == pytest.approx(said.probability.mean(), rel=1e-5)
    assert of['one_mask']['kept'] != found['kept']
    assert of['random_masks']['kept'] is None
    assert of['one_mask']['nmi'] == 0
    # All of what is planted is what is needed, and without none of it the model is whole.
    whole = predict(toy.model(), toy.dataset()[rows]).probability.mean()
    assert found['leading']['kept'][-1] == found['kept']
    assert found['leading']['without_rest'][-1] == pytest.approx(whole, rel=1e-5)
    assert found['leading']['kept'][0] != found['kept']
    # As many in each layer as the circuits have, 7 of 32.
    assert of['random_masks']['precision'] == pytest.approx(7 / 32, abs=0.12)
    documented = {
        path[1:]: kind.removeprefix('optional ')
        for path, kind in fields('NAME.study.json').items()
        if path[0] == 'ground_truth'
    }
    told = {
        tuple('METHOD' if part in of else part for part in path): value
        for path, value in leaves(found)
    }
    assert told.keys() == documented.keys()
    for path, value in told.items():
        absent = value is None and documented[path].endswith('?')
        assert absent or TYPES[documented[path].rstrip('?')](value), path


def test_a_ground_truth_that_is_of_no_use_is_refused(tmp_path):
    inputs = Inputs(InputsConfig(toy.TASK))
    ground_truth(data='x').save(tmp_path)
    with pytest.raises(InputError, match='belongs to other problems than those of these flags'):
        read_ground_truth(str(tmp_path), inputs)
    ground_truth(np.zeros_like(PLAN.circuits), data=inputs.dataset.hash).save(tmp_path)
    with pytest.raises(InputError, match='no planted neuron is necessary there'):
        read_ground_truth(str(tmp_path), inputs)
    with pytest.raises(InputError, match=r'ground_truth.json does not exist'):
        read_ground_truth('', inputs)
    other, rows = ground_truth(model='x'), toy.rows().test
    ours = circuit(PLAN.circuits * 1.0, other.assignments)
    with pytest.raises(InputError, match='belongs to another model'):
        study_recovery(
            other, toy.model(), ours, {}, ('learned',), toy.dataset(), rows, seed=0, **PASSES
        )
