"""The one optimizer of all trainings: AdamW with warm-up, cosine decay and clipping."""

import dataclasses

import jax
import optax

from cdjax.errors import InputError, check_finite
from cdjax.parallel.mesh import path_name


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) over a fixed number of steps.

    Attributes:
        steps: length of the schedule.
        learning_rate: at the peak.
        warmup_steps: linear warm-up; at most a tenth of the steps is used.
        weight_decay: of matrices; vectors (norms, biases) are not decayed.
        clip_norm: bound of the global gradient norm.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f'steps={self.steps}: at least 1 step is needed')
        check_finite(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )
        for name in ('learning_rate', 'clip_norm'):
            if not getattr(self, name) > 0:
                raise InputError(f'{name}={getattr(self, name)} must be above 0')
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise InputError(
                f'weight_decay={self.weight_decay} and warmup_steps={self.warmup_steps} must not '
                'be negative'
            )


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns the gradient transformation; its schedule ends at a hundredth of the peak."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, config.steps // 10),
        decay_steps=config.steps,
        end_value=config.learning_rate * 0.01,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule,
            b2=0.98,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(_is_matrix, params),
        ),
    )


def _is_matrix(path: tuple, leaf: jax.Array) -> bool:
    # By name, because norms are stacked over layers and so have two axes like a matrix.
    return leaf.ndim >= 2 and not path_name(path).endswith('norm.weight')
