"""The page on the method against the code that it tells of."""

import dataclasses
import re
from pathlib import Path

import pytest

from cdjax import losses
from cdjax.studies.inputs import InputsConfig
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.objectives import OBJECTIVES

PAGE = (Path(__file__).parents[2] / 'docs/method.md').read_text()
TEXT = re.sub(r'\s+', ' ', PAGE)


def test_it_tells_the_defaults():
    search, distillation = DiscoveryConfig(), DistillationConfig()
    objective, steps = search.objective, search.optimizer
    assert search.objective.key == 'any_size'
    for told in (
        f'G = {objective.sizes} sizes',
        f'from {100 * objective.smallest:g} to {100 * objective.largest:g} % of the neurons',
        f'T = {objective.temperature:g}, '.replace('0.', '.').rstrip(', '),
        f'learning rate {objective.learning_rate:g} (classifier '
        f'{search.classifier_learning_rate:g})'.replace('0.', '.'),
        f'{steps.warmup_steps} steps of warm-up',
        f'norm {steps.clip_norm:g}, {steps.steps} steps of {search.batch_size} problems',
        f'T = {distillation.temperature:g}, λ = {distillation.weight:g}',
    ):
        assert told.replace('learning rate 0.', 'learning rate .') in TEXT, told
    assert (search.encoding.layer, search.encoding.positions) == (0, None)
    assert InputsConfig().teacher is None


def test_every_term_of_every_objective_is_on_it():
    for key, objective in OBJECTIVES.items():
        assert f'`--objective={key}`' in TEXT
        for field in dataclasses.fields(objective().weights):
            name = {'prior_kl': 'KL, §4.3.4'}.get(field.name, field.name)
            assert name in TEXT.lower() or name in TEXT, (key, field.name)


@pytest.mark.parametrize('name', re.findall(r'`cdjax\.losses\.(\w+)`', PAGE))
def test_the_losses_that_it_names_are_there(name):
    assert callable(getattr(losses, name))
