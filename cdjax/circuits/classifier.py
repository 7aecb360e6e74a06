"""Latent classes of problems: what describes a problem, and a classifier of that."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdjax.errors import InputError
from cdjax.models import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Which activations describe a problem to the classifier (§4.1).

    The choice among K masks passes up to log2(K) bits into the ablated model, so an encoding that
    knows the answer would hand it over. The default cannot: it is the residual stream that enters
    the first layer, where nothing has been computed yet.

    Attributes:
        layer: the encoding is the residual stream that enters this layer.
        positions: positions of the prompt, concatenated; all of them if None.
    """

    layer: int = 0
    positions: tuple[int, ...] | None = None

    def check(self, config: LlamaConfig, length: int) -> None:
        """Raises InputError where the model has no such layer, or prompts no such position.

        Args:
            config: the shape of the model that is read.
            length: tokens of a prompt.
        """
        if not 0 <= self.layer < config.num_layers:
            raise InputError(
                f'encode_layer={self.layer}: the model has layers 0 to {config.num_layers - 1}'
            )
        outside = [p for p in self.positions or () if not -length <= p < length]
        if outside or self.positions == ():
            raise InputError(
                f'encode_positions={list(self.positions)}: prompts have positions 0 to {length - 1}'
            )


def standardization(features_NxE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the inverse deviation of each feature, float32 `[E]`, over N problems.

    A feature that does not vary (BOS, the equals sign) has inverse deviation 0: it is left out.
    """
    mean, deviation = (np.empty(features_NxE.shape[1]) for _ in range(2))
    for columns in _blocks(features_NxE):
        block = features_NxE[:, columns].astype(np.float64)
        mean[columns], deviation[columns] = block.mean(axis=0), block.std(axis=0)
    varies = deviation > 1e-5 * (np.abs(mean) + 1e-5)
    inverse = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
    return mean.astype(np.float32), inverse.astype(np.float32)


def standardize(features_NxE: np.ndarray) -> None:
    """Standardises features over N problems where they stand, in their own dtype."""
    mean, inverse = standardization(features_NxE)
    for columns in _blocks(features_NxE):
        features_NxE[:, columns] = (features_NxE[:, columns] - mean[columns]) * inverse[columns]


def _blocks(features_NxE: np.ndarray):
    """Yields slices of columns: the neurons of a large model fill the host's memory once."""
    width = max(2**23 // max(len(features_NxE), 1), 1)
    for start in range(0, features_NxE.shape[1], width):
        yield slice(start, start + width)


class Classifier(nnx.Module):
    """A linear classifier of standardised encodings (see `standardization`).

    Args:
        width: features of an encoding (E).
        num_classes: K.
        key: PRNG key of the initial weights.
    """

    def __init__(self, width: int, num_classes: int, key: jax.Array):
        self.weight = nnx.Param(jax.random.normal(key, (width, num_classes)) * width**-0.5)
        self.bias = nnx.Param(jnp.zeros(num_classes))

    def __call__(self, encoding_NxE: jax.Array) -> jax.Array:
        """Returns class logits, float32 `[N, K]`."""
        logits = jnp.matmul(encoding_NxE, self.weight[...], precision=jax.lax.Precision.HIGHEST)
        return logits + self.bias[...][None]


def straight_through_gumbel_softmax(
    noise: jax.Array, logits: jax.Array, temperature: float
) -> jax.Array:
    """Samples one-hot rows whose gradient is that of the relaxed sample.

    Jang et al., arXiv 1611.01144: `y = softmax((logits + g) / τ)`, forward the one-hot of its
    maximum, backward the gradient of y.

    Args:
        noise: float `[N, K]`, `jax.random.gumbel`.
        logits: float `[N, K]`.
        temperature: τ > 0.

    Returns:
        float32 `[N, K]`, one-hot rows.
    """
    soft = jax.nn.softmax((logits + noise) / temperature)
    hard = jax.nn.one_hot(jnp.argmax(soft, -1), logits.shape[-1])
    # In brackets, for `hard + soft - soft` is 1 up to rounding only.
    return hard + (soft - jax.lax.stop_gradient(soft))
