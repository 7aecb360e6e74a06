"""The training of a planted teacher: any mesh does it, in a folder of one plan and one loss."""

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
PLANT = PlantConfig(weights=PlantWeights(nuisance=1), spread=0.1, together=0.5)
TRAINING = LanguageModelConfig(OptimizerConfig(2, 2e-3), batch_size=8)


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


def train(mesh, workdir=None, config=PLANT, plan=PLAN, classes=None, **options):
    classes = planted_classes(toy.dataset(), config) if classes is None else classes
    return train_planted(
        toy.random_model(SHAPE, mesh=mesh),
        toy.dataset(),
        classes,
        plan,
        config,
        TRAINING,
        mesh=mesh,
        workdir=workdir,
        options=RunOptions(**options),
    )


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    """The folder of a training on one device, and what it returns."""
    workdir = tmp_path_factory.mktemp('planted')
    return workdir, train(toy.one_device(), workdir)


def test_devices_share_a_batch_and_change_nothing(one):
    of_one, history = one[1]
    # Gradients are checked by a program of their own, which says nothing new of a mesh.
    of_eight, _ = train(make_mesh(fsdp=4, tensor=2), check_gradients=False)
    assert history[-1]['nuisance'] > 0
    for a, b in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_plantings_that_differ_in_arrays_run_under_one_compilation(one):
    before = toy.compilations('step')
    plan = draw_plan(PlanConfig(2, 3, seed=1), 2, 1, toy.F)
    of_other, _ = train(toy.one_device(), plan=plan, check_gradients=False)
    assert toy.compilations('step') == before
    of_one = one[1][0].layers.mlp.gate.weight[...]
    assert not np.allclose(of_one, of_other.layers.mlp.gate.weight[...], atol=1e-5)


def test_a_folder_is_that_of_one_plan(one):
    for words, changes in (
        ('plan.shared', {'plan': draw_plan(PlanConfig(2, 3, seed=1), 2, 1, toy.F)}),
        ('config.floor', {'config': dataclasses.replace(PLANT, floor=0.5)}),
        ('classes', {'classes': 1 - planted_classes(toy.dataset(), PLANT)}),
    ):
        with pytest.raises(InputError, match=f'holds another training: {words}'):
            train(toy.one_device(), one[0], **changes)


def test_a_floor_is_positive():
    with pytest.raises(InputError, match='plant_floor=0 must be above 0'):
        PlantConfig(floor=0)
