"""A pipeline of the smallest size: every training takes three steps, of models of one layer."""

import dataclasses

import numpy as np
import toy_study as toy

from cdjax.circuits.circuit import model_hash
from cdjax.data import save_tokenizer
from cdjax.models import save_huggingface
from cdjax.planted.ground_truth import GroundTruth
from cdjax.planted.plan import PlanConfig, draw_plan
from cdjax.studies.arms import ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.inputs import InputsConfig
from cdjax.studies.pipeline import PipelineConfig
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.objectives import AnySize
from cdjax.training.optimizer import OptimizerConfig

SHAPE = dataclasses.replace(
    toy.teacher_config(), num_layers=1, intermediate_size=16, num_heads=2, num_kv_heads=1
)
METHODS = ('one_mask', 'mean_activation', 'random_masks')
STEPS = OptimizerConfig(3, 1e-2)


def make_config(teacher, **changes) -> PipelineConfig:
    config = PipelineConfig(
        # Of 155 problems 40 are unseen, and halves of them are as many as are asked at most.
        InputsConfig(toy.TASK, share=0.5, test=0.26, teacher=str(teacher)),
        DiscoveryConfig(
            STEPS,
            num_classes=2,
            objective=AnySize(density=0.25, smallest=0.2, sizes=2),
            batch_size=32,
            least_accuracy=0.0,
        ),
        CircuitStudyConfig(
            sizes=(0.25, 1.0),
            methods=METHODS,
            max_problems=20,
            ablations=('mean', 'overall_mean'),
        ),
        ArmsConfig(
            DistillationConfig(STEPS, batch_size=32),
            arms=('kd', 'circuits'),
            starts=('nothing', 'partial'),
            head_start_steps=3,
            evaluate_every=2,
            max_problems=20,
        ),
        rediscover=('circuits',),
    )
    return dataclasses.replace(config, **changes)


def without_students(config) -> PipelineConfig:
    """The same pipeline, of the teacher alone."""
    arms = dataclasses.replace(config.arms, arms=(), starts=None)
    return dataclasses.replace(config, arms=arms, rediscover=None, export=None)


def make_teacher(folder):
    """Saves a random teacher below a folder, with circuits that are as good as planted."""
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    model = toy.random_model(SHAPE)
    save_huggingface(model, folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    plan = draw_plan(PlanConfig(2, 2), 2, SHAPE.num_layers, SHAPE.intermediate_size)
    truth = GroundTruth(
        plan.shared,
        plan.specific,
        plan.circuits,
        np.ones((SHAPE.num_layers, SHAPE.intermediate_size), bool),
        toy.dataset().labels['operators'],
        {'model': model_hash(model), 'data': toy.dataset().hash},
    )
    truth.save(folder / 'teacher')
    return folder / 'teacher'
