"""Trainings: discovery, distillation and a language model, by one optimizer in one loop."""

from cdjax.run.options import RunOptions
from cdjax.training.diagnostics import (
    GradientDoctor,
    GradientError,
    GradientReport,
    gradient_report,
)
from cdjax.training.discovery import (
    discover,
)
from cdjax.training.discovery_config import (
    DiscoveryConfig,
)
from cdjax.training.distillation import (
    Alignment,
    DistillationConfig,
    distill,
)
from cdjax.training.language_model import (
    LanguageModelConfig,
    train_language_model,
)
from cdjax.training.loop import fit
from cdjax.training.objectives import (
    OBJECTIVES,
    AnySize,
    FixedDensity,
    Published,
)
from cdjax.training.optimizer import (
    OptimizerConfig,
    make_optimizer,
)
from cdjax.training.state import TrainState, init_state
from cdjax.training.step import (
    jit_step,
)

__all__ = [
    'OBJECTIVES',
    'Alignment',
    'AnySize',
    'DiscoveryConfig',
    'DistillationConfig',
    'FixedDensity',
    'GradientDoctor',
    'GradientError',
    'GradientReport',
    'LanguageModelConfig',
    'OptimizerConfig',
    'Published',
    'RunOptions',
    'TrainState',
    'discover',
    'distill',
    'fit',
    'gradient_report',
    'init_state',
    'jit_step',
    'make_optimizer',
    'train_language_model',
]
