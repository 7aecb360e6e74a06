"""The size at which circuits of a student are compared, against predictions at each."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import toy_study as toy

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.masks import binarize
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.rediscovery import _halves, _smallest_faithful


def test_circuits_of_a_student_are_the_smallest_that_keep_enough(monkeypatch):
    student, split = toy.model(student=True), toy.rows()
    said = predict(student, toy.dataset()).tokens
    # Answers that it gives, so that what it keeps is how often they stay.
    data = dataclasses.replace(toy.dataset(), answers=said)
    fill, classes = neuron_means(student, data[split.train]), data.labels['operators']
    shape = (2, *fill.shape[::2])
    scores = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    circuit = Circuit(binarize(scores, 4), scores, fill, classes.astype(np.int32))
    rows, config = split.test, CircuitStudyConfig()
    ablated = {'classes': classes[rows], 'fill': fill}
    kept = {
        size: predict(student, data[rows], masks=binarize(scores, size), **ablated).accuracy
        for size in (4, 6, 8, 10, 12, 16, 24)  # of 32 neurons, to three quarters
    }

    def smallest(enough, answers=said):
        monkeypatch.setattr('cdjax.studies.mechanism.FAITHFUL', enough)
        dataset = dataclasses.replace(data, answers=answers)
        run = SimpleNamespace(inputs=SimpleNamespace(dataset=dataset), passes={})
        return _smallest_faithful(run, student, circuit, rows, config)

    for enough in (kept[4], kept[12], max(kept.values())):
        assert smallest(enough) == min(size for size in kept if kept[size] >= enough)
    assert smallest(max(kept.values()) + 0.01) is None
    assert smallest(0.0, np.full_like(said, -1)) is None, 'who answers nothing keeps nothing'


def test_a_size_is_chosen_on_other_problems_than_are_told_of():
    split = toy.rows()
    choose, tell = _halves(split, 3)
    assert not set(choose.test) & set(tell.test)
    np.testing.assert_array_equal(np.sort([*choose.test, *tell.test]), split.test)
    assert 0 <= len(tell.test) - len(choose.test) <= 1
    np.testing.assert_array_equal(tell.train, split.train)
