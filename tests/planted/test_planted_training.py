import dataclasses

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.parallel.mesh import make_mesh
from cdjax.planted.objective import PlantWeights
from cdjax.planted.plan import PlanConfig, draw_plan
from cdjax.planted.training import PlantConfig, check_training, planted_classes, train_planted
from cdjax.run.options import RunOptions
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.optimizer import OptimizerConfig

SHAPE = dataclasses.replace(toy.teacher_config(), num_layers=1)
PLAN = draw_plan(PlanConfig(2, 3), 2, 1, toy.F)
TRAINING = LanguageModelConfig(OptimizerConfig(2), batch_size=8)


def test_classes_are_the_values_of_a_label():
    dataset = toy.dataset()
    np.testing.assert_array_equal(
        planted_classes(dataset, PlantConfig('parity')), dataset.labels['parity']
    )
    with pytest.raises(InputError, match='plant_classes=size: these problems have no such label'):
        planted_classes(dataset, PlantConfig('size'))
    one = dataset[dataset.labels['operators'] == 0]
    with pytest.raises(InputError, match='plant_classes=operators has one value'):
        planted_classes(one, PlantConfig())


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'microbatches': 2}, 'microbatches=2: circuits are planted by exchanging neurons'),
        ({'batch_size': 3}, 'batch_size=3 is too small to exchange neurons within 2 classes'),
    ],
)
def test_batches_that_have_no_room_for_an_exchange(fields, message):
    with pytest.raises(InputError, match=message):
        check_training(dataclasses.replace(TRAINING, **fields), PLAN, toy.one_device())


def test_a_class_without_problems_is_named():
    dataset = toy.dataset()
    with pytest.raises(InputError, match='class 1 has no problem to train on'):
        train_planted(
            SHAPE,
            dataset,
            np.zeros(len(dataset), np.int32),
            PLAN,
            PlantConfig(),
            TRAINING,
            mesh=toy.one_device(),
        )


def test_devices_share_a_batch_and_change_nothing():
    config = PlantConfig(weights=PlantWeights(nuisance=1), spread=0.1, together=0.5)
    dataset = toy.dataset()
    classes = planted_classes(dataset, config)
    training = dataclasses.replace(TRAINING, optimizer=OptimizerConfig(2, 2e-3))

    def train(mesh, options):
        model = toy.random_model(SHAPE, mesh=mesh)
        return train_planted(
            model, dataset, classes, PLAN, config, training, mesh=mesh, options=options
        )

    one = train(toy.one_device(), RunOptions())
    # Gradients are checked by a program of their own, which says nothing new of a mesh.
    eight = train(make_mesh(fsdp=4, tensor=2), RunOptions(check_gradients=False))
    assert one[1][-1]['nuisance'] > 0
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(eight[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_a_floor_is_positive():
    with pytest.raises(InputError, match='plant_floor=0 must be above 0'):
        PlantConfig(floor=0)
