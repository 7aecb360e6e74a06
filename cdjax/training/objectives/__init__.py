"""What masks are trained for: one file for each objective, and the registry of all."""

from cdjax.registry import Registry
from cdjax.training.objectives.any_size import AnySize
from cdjax.training.objectives.fixed_density import FixedDensity
from cdjax.training.objectives.objective import Objective, Subject
from cdjax.training.objectives.published import Published

__all__ = [
    'OBJECTIVES',
    'AnySize',
    'FixedDensity',
    'Objective',
    'Published',
    'Subject',
]

OBJECTIVES: Registry[type[Objective]] = Registry('objective')
for _objective in (AnySize, FixedDensity, Published):
    OBJECTIVES.add(_objective)
