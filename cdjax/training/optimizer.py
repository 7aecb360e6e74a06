"""The one optimizer of all trainings: AdamW with warm-up, cosine decay and clipping."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

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
        epsilon: added to the root of the second moment. A gradient far above it becomes a full
            step however small it is; one below it stays small.
    """

    steps: int
    learning_rate: float | None = None
    warmup_steps: int | None = None
    weight_decay: float | None = None
    clip_norm: float = 1.0
    epsilon: float = 1e-8

    def __post_init__(self):
        if not 1 <= self.steps < 2**31:  # counted in int32
            raise InputError(f'steps={self.steps}: at least 1 step is needed, and less than 2^31')
        for name in ('learning_rate', 'clip_norm', 'epsilon'):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f'{name}={value} must be above 0, and finite')
        for name in ('weight_decay', 'warmup_steps'):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f'{name}={value} must not be negative, and finite')

    def or_else(self, suited: 'Suited') -> 'OptimizerConfig':
        """Returns this configuration with what suits a training in place of None."""
        left_open = {n: value for n, value in vars(suited).items() if getattr(self, n) is None}
        return dataclasses.replace(self, **left_open)

    def describe(self) -> str:
        """Returns the values in force, of a configuration that leaves nothing open."""
        warmup = min(self.warmup_steps, self.steps // 10)
        return (
            f'{self.steps} steps, {warmup} of them warm-up, learning rate {self.learning_rate:g}, '
            f'weight decay {self.weight_decay:g}'
        )


@dataclasses.dataclass(frozen=True)
class Suited:
    """What suits a training, of what `OptimizerConfig` may leave open."""

    learning_rate: float
    weight_decay: float
    warmup_steps: int = 100


# Of a training that starts from a checkpoint, such that what it knows is not lost: the learning
# rate of Llama 2's supervised fine-tuning (arXiv 2307.09288), without decay.
FINE_TUNING = Suited(2e-5, 0.0)


class SuitedToStart:
    """What configurations of trainings have whose `optimizer` may leave values open.

    Attributes:
        from_nothing: what suits a model of random weights.
    """

    from_nothing: ClassVar[Suited]

    def suited_to(self, *, pretrained: bool) -> Self:
        """Returns the training of a model that was trained before, or of one from nothing.

        What the optimizer leaves open is taken from `FINE_TUNING` or from `from_nothing`.
        """
        chosen = self.optimizer.or_else(FINE_TUNING if pretrained else self.from_nothing)
        return dataclasses.replace(self, optimizer=chosen)

    def describe(self) -> str:
        """Returns a line on the values in force; of a training that leaves nothing open."""
        return f'{self.optimizer.describe()}, computed in {self.compute_dtype}'


def make_optimizer(
    config: OptimizerConfig, *, learning_rates: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
    """Returns the gradient transformation; its schedule ends at a hundredth of the peak.

    Args:
        config: the optimizer.
        learning_rates: peaks of their own for the parameters below a name, such as 'classifier'.
    """
    assert None not in vars(config).values(), config
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
