"""The planted teachers that ship with the package are what their ground truth says."""

import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.circuit import model_hash
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.planted import PLANTED_TEACHERS
from cdjax.planted.ground_truth import GroundTruth
from cdjax.studies.inputs import Inputs, InputsConfig

TASKS = {
    'lookup': 'lookup',
    'null': 'lookup',
    'order': 'lookup_order',
    'towers': 'lookup_two',
}
# Which table is read is harder to tell where no token shows it.
LEAST_RIGHT = {'order': 0.93}


@pytest.mark.parametrize('name', TASKS)
def test_it_is_small_and_whole(name):
    folder = PLANTED_TEACHERS / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6
    truth = GroundTruth.load(folder)
    inputs = Inputs(InputsConfig(task=TASKS[name], teacher=str(folder)))
    truth.check_belongs(name, data=inputs.dataset.hash)
    model = inputs.load_teacher(toy.one_device())
    truth.check_belongs(name, model=model_hash(model))
    unseen = inputs.dataset[inputs.split.test]
    assert predict(model, unseen, mesh=toy.one_device()).accuracy >= LEAST_RIGHT.get(name, 0.99)
    assert truth.plan.empty == (name == 'null')
    assert bool(truth.causal_size) == (name != 'null')


@pytest.mark.parametrize('name', [name for name in TASKS if name != 'null'])
def test_circuits_do_what_they_are_planted_for(name):
    """Asked of the model once more, on some of the problems."""
    folder = PLANTED_TEACHERS / name
    inputs, truth = (
        Inputs(InputsConfig(task=TASKS[name], teacher=str(folder))),
        GroundTruth.load(folder),
    )
    model = inputs.load_teacher(toy.one_device())
    test = inputs.split.test
    rows = test[:: len(test) // 192][:192]  # as many of each, under one compilation
    fill = neuron_means(model, inputs.dataset[inputs.split.train], mesh=toy.one_device())
    classes = truth.assignments[rows]
    answered = lambda masks: (
        predict(
            model,
            inputs.dataset[rows],
            masks=masks,
            classes=classes,
            fill=fill,
            mesh=toy.one_device(),
        ).probability
    )
    circuits = truth.plan.circuits
    whole = answered(np.ones_like(circuits)).mean()
    assert answered(circuits).mean() > 0.9 * whole
    assert answered(truth.necessary).mean() > 0.8 * whole, 'what is necessary is enough, too'
    # A right answer by chance has probability 1/31.
    assert answered(np.roll(circuits, 1, axis=0)).mean() < 0.1
    assert answered(~truth.specific).mean() < 0.1
    assert answered(~np.roll(truth.specific, 1, axis=0)).mean() > 0.8 * whole
