"""The training of a planted teacher: its folder is that of one plan, one loss and its classes."""

import dataclasses

import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.planted.plan import PlanConfig, draw_plan
from cdjax.planted.training import PlantConfig, planted_classes, train_planted
from cdjax.run.options import RunOptions
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.optimizer import OptimizerConfig

SHAPE = dataclasses.replace(toy.teacher_config(), num_layers=1)
PLANT = PlantConfig(plan=PlanConfig(shared=4, specific=6))


def train(workdir, plant=PLANT, seed=0, **changes):
    classes = planted_classes(toy.dataset(), plant)
    plan = draw_plan(dataclasses.replace(plant.plan, seed=seed), 2, 1, toy.F)
    training = LanguageModelConfig(OptimizerConfig(1), batch_size=16)
    return train_planted(
        toy.random_model(SHAPE),
        toy.dataset(),
        changes.get('classes', classes),
        plan,
        plant,
        training,
        mesh=toy.one_device(),
        workdir=workdir,
        options=RunOptions(check_gradients=False),
    )


def test_a_folder_is_that_of_one_plan(tmp_path):
    train(tmp_path)
    classes = 1 - planted_classes(toy.dataset(), PLANT)
    for words, changes in (
        ('plan.shared', {'seed': 1}),
        ('config.floor', {'plant': dataclasses.replace(PLANT, floor=0.5)}),
        ('classes', {'classes': classes}),
    ):
        with pytest.raises(InputError, match=f'holds another training: {words}'):
            train(tmp_path, **changes)
