"""The one optimizer of all trainings: AdamW with warm-up, cosine decay and clipping."""

import dataclasses
from collections.abc import Mapping

import jax
import optax

from cdjax.errors import InputError
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
        epsilon: added to the root of the second moment. A gradient far above it becomes a full
            step however small it is; one below it stays small.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    epsilon: float = 1e-8

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f'steps={self.steps}: at least 1 step is needed')
        for name in ('learning_rate', 'clip_norm', 'epsilon'):
            if not getattr(self, name) > 0:
                raise InputError(f'{name}={getattr(self, name)} must be above 0')
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise InputError(
                f'weight_decay={self.weight_decay} and warmup_steps={self.warmup_steps} must not '
                'be negative'
            )


def make_optimizer(
    config: OptimizerConfig, *, learning_rates: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
    """Returns the gradient transformation; its schedule ends at a hundredth of the peak.

    Args:
        config: the optimizer.
        learning_rates: peaks of their own for the parameters below a name, such as 'classifier'.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, config.steps // 10),
        decay_steps=config.steps,
        end_value=config.learning_rate * 0.01,
    )
    adamw = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule,
            b2=0.98,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(_is_matrix, params),
        ),
    )
    if not learning_rates:
        return adamw
    factors = {name: rate / config.learning_rate for name, rate in learning_rates.items()}

    def scaled(path, update):
        name = path_name(path)
        below = [f for prefix, f in factors.items() if name.startswith(f'{prefix}.')]
        return update * below[0] if below else update

    scale = lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates)
    return optax.chain(adamw, optax.stateless(scale))


def _is_matrix(path: tuple, leaf: jax.Array) -> bool:
    # By name, because norms are stacked over layers and so have two axes like a matrix.
    return leaf.ndim >= 2 and not path_name(path).endswith('norm.weight')
