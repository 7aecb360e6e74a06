"""Neuron masks: the generator that learns them, and their binary form."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdjax.errors import InputError

# Of random masks: enough to see how much they differ, which intervals cover.
DRAWS = 20


class MaskGenerator(nnx.Module):
    """Two-layer feed-forward network from a class to a mask over all FFN neurons (§4.2).

    `m_k = sigmoid(W2 gelu(W1[k]) + b)`: a one-hot class times the first matrix is its row.

    Args:
        num_classes: K.
        num_layers: L.
        num_neurons: F.
        key: PRNG key of the initial weights.
        hidden: width of the hidden layer; below K the masks of the classes could not be
            independent.
        density: mean of the initial masks.

    Raises:
        InputError: a hidden width below K.
    """

    def __init__(
        self,
        num_classes: int,
        num_layers: int,
        num_neurons: int,
        key: jax.Array,
        *,
        hidden: int,
        density: float = 0.5,
    ):
        if hidden < num_classes:
            raise InputError(
                f'hidden={hidden} of the mask generator is below the {num_classes} classes, whose '
                f'masks could then not differ freely: choose at least {num_classes}'
            )
        first, second = jax.random.split(key)
        width = num_layers * num_neurons
        self.shape = (num_classes, num_layers, num_neurons)
        self.classes = nnx.Param(jax.random.normal(first, (num_classes, hidden)))
        self.neurons = nnx.Param(jax.random.normal(second, (hidden, width)) * hidden**-0.5)
        logit = float(np.log(density / (1 - density)))
        self.bias = nnx.Param(jnp.full((width,), logit, jnp.float32))

    def __call__(self) -> jax.Array:
        """Returns the logits of the masks, float32 `[K, L, F]`; a mask is their sigmoid."""
        hidden_KxH = jax.nn.gelu(self.classes[...])
        product = jnp.matmul(hidden_KxH, self.neurons[...], precision=jax.lax.Precision.HIGHEST)
        return (product + self.bias[...][None]).reshape(self.shape)


def binarize(scores: np.ndarray, size: int) -> np.ndarray:
    """Returns, for each class, the mask of exactly the `size` neurons with the highest scores.

    Args:
        scores: float `[K, L, F]`: soft masks, or any attribution.
        size: neurons of each circuit, over all layers.

    Returns:
        bool `[K, L, F]`. Of equal scores the earlier neuron is taken, so that the size is exact.

    Raises:
        InputError: a size below 1 or above L * F.
    """
    classes, layers, neurons = scores.shape
    if not 1 <= size <= layers * neurons:
        raise InputError(
            f'a circuit of {size} neurons of a model with {layers * neurons}: choose a size from '
            f'1 to {layers * neurons}'
        )
    flat = np.asarray(scores, np.float64).reshape(classes, -1)
    best = np.argsort(-flat, axis=1, kind='stable')[:, :size]
    masks = np.zeros(flat.shape, bool)
    np.put_along_axis(masks, best, True, axis=1)
    return masks.reshape(scores.shape)


def log_ranks(scores: np.ndarray) -> np.ndarray:
    """Returns minus the logarithm of each neuron's rank within its class, from 1 for the highest.

    Scores of any method, on one scale: of all neurons, those far up differ most.

    Args:
        scores: float `[K, L, F]`; of equal ones the earlier neuron is the higher.

    Returns:
        float32 `[K, L, F]`.
    """
    flat = np.asarray(scores, np.float64).reshape(len(scores), -1)
    order = np.argsort(-flat, axis=1, kind='stable')
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, flat.shape[1] + 1)[None], axis=1)
    return -np.log(ranks).astype(np.float32).reshape(scores.shape)


def specific_size(size, specific: float, np=np):
    """Returns how many neurons of a circuit of `size` are its class's own: a part, at least one.

    Args:
        size: neurons of the circuit, an integer or an array.
        specific: the part.
        np: `numpy`, or `jax.numpy` for traced sizes.
    """
    return np.maximum(np.round(specific * size), 1).astype(np.int32)


def nested_scores(core: np.ndarray, own: np.ndarray, specific: float) -> np.ndarray:
    """Returns one ranking for each class, of circuits that have a core in common.

    Of a circuit of n neurons, `specific_size(n)` are the highest of `own` outside the core, and the
    rest, the core, are the highest of `core`. A neuron of a circuit is in every larger one as well,
    for the next neuron of either kind is the one that comes to it: so these circuits are those of
    a single ranking, by the size from which on a neuron is in.

    Args:
        core: float `[L, F]`, scores of the core.
        own: float `[K, L, F]`, scores of each class.
        specific: part of a circuit that is its class's own.

    Returns:
        float32 `[K, L, F]`, minus the logarithm of that size.
    """
    neurons = core.size
    order_of_core = np.argsort(-core.ravel(), kind='stable').tolist()
    owned = [0, *specific_size(np.arange(1, neurons + 1), specific).tolist()]
    scores = np.empty((len(own), neurons), np.float32)
    for k, scores_of_class in enumerate(own):
        order = iter(np.argsort(-scores_of_class.ravel(), kind='stable').tolist())
        entered = bytearray(neurons)
        for size in range(1, neurons + 1):
            core_grows = owned[size] == owned[size - 1]
            neuron = order_of_core[size - owned[size] - 1] if core_grows else None
            if neuron is None or entered[neuron]:
                # One more of its own: in place of one that the core takes over, where that grows.
                neuron = next(n for n in order if not entered[n])
            entered[neuron] = True
            scores[k, neuron] = -np.log(size)
    return scores.reshape(own.shape)


def random_masks(masks: np.ndarray, *, seed: int, living: np.ndarray | None = None) -> np.ndarray:
    """Returns random masks with as many neurons in each class and layer as `masks` `[K, L, F]`.

    Args:
        masks: bool `[K, L, F]`.
        seed: of the draw.
        living: bool `[L, F]`, neurons that are drawn before any other; None for all alike.
    """
    noise = np.random.default_rng(seed).random(masks.shape)
    if living is not None:
        noise = noise + ~living
    # The rank of each neuron's noise within its layer, kept while below the layer's count.
    ranks = np.argsort(np.argsort(noise, axis=-1), axis=-1)
    return ranks < masks.sum(axis=-1, keepdims=True)
