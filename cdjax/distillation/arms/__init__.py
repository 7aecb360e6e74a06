"""Arms of distillation, one file for each family: what is aligned, and what that is held against.

An arm of a user's own is added to `ARMS` before a study runs; it is in the table and in the report
then.
"""

from cdjax.distillation.arms import (
    circuits,
    disordered,
    factorial,
    interchange,
    readings,
    single,
    whole,
)
from cdjax.distillation.arms.arm import Arm, Given
from cdjax.registry import Registry

# In the order of tables.
ARMS: Registry[Arm] = Registry('arm')
KD = ARMS.add(whole.KD)
ARMS.add(whole.ALL)
CIRCUITS = ARMS.add(circuits.CIRCUITS)
RANDOM = ARMS.add(circuits.RANDOM)
ARMS.add(circuits.WRONG)
ARMS.add(whole.CROSS_ENTROPY)
ARMS.add(whole.REVERSE_KD)
for arm in factorial.FACTORIAL:
    ARMS.add(arm)
ARMS.add(single.FIRST_CIRCUIT)
ARMS.add(single.SECOND_CIRCUIT)
ARMS.add(disordered.SWAPPED)
ARMS.add(disordered.SHUFFLED)
ARMS.add(readings.RANDOM_EQUAL)
ARMS.add(readings.FITNETS)
ARMS.add(readings.FITNETS_RANDOM)
ARMS.add(readings.CONTRIBUTIONS_ARM)
ARMS.add(readings.CONTRIBUTIONS_RANDOM)
ARMS.add(readings.CONTRIBUTIONS_WRONG)
ARMS.add(readings.ATTRIBUTIONS_ARM)
ARMS.add(readings.ATTRIBUTIONS_RANDOM)
ARMS.add(interchange.INTERCHANGE)
ARMS.add(interchange.INTERCHANGE_RANDOM)
ARMS.add(interchange.INTERCHANGE_WRONG)

__all__ = ['ARMS', 'CIRCUITS', 'KD', 'RANDOM', 'Arm', 'Given', 'arms_by_default']


def arms_by_default() -> tuple[str, ...]:
    """Returns the arms that a comparison runs where none are named."""
    return tuple(key for key, arm in ARMS.items() if arm.by_default)
