"""Which neurons are to carry which class: drawn before the training, and never changed."""

import dataclasses

import numpy as np

from cdjax.errors import InputError, check_seed


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """How neurons are dealt out.

    Attributes:
        shared: neurons a layer that serve all classes; 0 leaves the classes nothing in common.
        specific: neurons a layer and class that serve it alone; None deals out all that are not
            shared, 0 leaves one circuit for all problems, or with no shared ones nothing.
        seed: of the draw.
    """

    shared: int = 12
    specific: int | None = 12
    seed: int = 0

    def __post_init__(self):
        for name in ('shared', 'specific'):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f'plant_{name}={getattr(self, name)} must not be negative')
        check_seed(plant_seed=self.seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The neurons of each class.

    Attributes:
        shared: bool `[L, F]`, S, part of every class's circuit.
        specific: bool `[K, L, F]`, C_k, disjoint from each other and from S.
    """

    shared: np.ndarray
    specific: np.ndarray

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.specific)

    @property
    def circuits(self) -> np.ndarray:
        """M_k = S ∪ C_k, bool `[K, L, F]`."""
        return self.shared | self.specific

    @property
    def decoys(self) -> np.ndarray:
        """What is in no circuit, bool `[L, F]`."""
        return ~self.circuits.any(axis=0)

    @property
    def empty(self) -> bool:
        """Whether nothing is planted."""
        return not self.circuits.any()

    @property
    def one_circuit(self) -> bool:
        """Whether all that is planted is the same for all classes."""
        return not self.specific.any() and not self.empty


def draw_plan(config: PlanConfig, num_classes: int, num_layers: int, num_neurons: int) -> Plan:
    """Deals the neurons of each layer out at random.

    Args:
        config: how many of each kind.
        num_classes: K.
        num_layers: L.
        num_neurons: F.

    Raises:
        InputError: more neurons than a layer has.
    """
    specific = config.specific
    if specific is None:
        specific = max(num_neurons - config.shared, 0) // num_classes
    needed = config.shared + num_classes * specific
    if needed > num_neurons:
        raise InputError(
            f'plant_shared={config.shared} and plant_specific={specific} for each of '
            f'{num_classes} classes take {needed} neurons of a layer, which has {num_neurons}'
        )
    rng = np.random.default_rng(config.seed)
    order = rng.permuted(np.tile(np.arange(num_neurons), (num_layers, 1)), axis=1)
    of_layer = np.empty_like(order)
    np.put_along_axis(of_layer, order, np.arange(num_neurons)[None], axis=1)
    first = config.shared + specific * np.arange(num_classes)[:, None, None]
    return Plan(of_layer < config.shared, (first <= of_layer) & (of_layer < first + specific))
