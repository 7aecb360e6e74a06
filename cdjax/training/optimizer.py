"""The one optimizer of all trainings: AdamW with warm-up, cosine decay and clipping."""

import dataclasses
import math

import jax
import optax

from cdjax.errors import InputError
from cdjax.parallel.mesh import path_name


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) over a fixed number of steps.

    What suits a model of random weights destroys a trained one. What is None is therefore chosen
    by the training that knows where it starts, see `or_else`.

    Attributes:
        steps: length of the schedule.
        learning_rate: at the peak.
        warmup_steps: linear warm-up; at most a tenth of the steps is used.
        weight_decay: of matrices; vectors (norms, biases) are not decayed.
        clip_norm: bound of the global gradient norm.
    """

    steps: int
    learning_rate: float | None = None
    warmup_steps: int | None = None
    weight_decay: float | None = None
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f'steps={self.steps}: at least 1 step is needed')
        for name in ('learning_rate', 'clip_norm'):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f'{name}={value} must be above 0, and finite')
        for name in ('weight_decay', 'warmup_steps'):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f'{name}={value} must not be negative, and finite')

    def or_else(self, other: 'OptimizerConfig') -> 'OptimizerConfig':
        """Returns this configuration with the values of another in place of None."""
        chosen = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(other, **chosen)

    def describe(self) -> str:
        """Returns the values in force, of a configuration that leaves nothing open."""
        warmup = min(self.warmup_steps, self.steps // 10)
        return (
            f'{self.steps} steps, {warmup} of them warm-up, learning rate {self.learning_rate:g}, '
            f'weight decay {self.weight_decay:g}'
        )


# Of a training that starts from a checkpoint, such that what it knows is not lost: the learning
# rate of Llama 2's supervised fine-tuning (arXiv 2307.09288), without decay.
FINE_TUNING = OptimizerConfig(1000, 2e-5, warmup_steps=100, weight_decay=0.0)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns the gradient transformation; its schedule ends at a hundredth of the peak."""
    assert None not in vars(config).values(), config
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
