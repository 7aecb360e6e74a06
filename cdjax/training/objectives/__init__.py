"""What masks are trained for: one file for each objective, and the registry of all."""

from collections.abc import Mapping
from typing import Any

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
    'objective_from_dict',
]

OBJECTIVES: Registry[type[Objective]] = Registry('objective')
for _objective in (AnySize, FixedDensity, Published):
    OBJECTIVES.add(_objective)


def objective_from_dict(fields: Mapping[str, Any]) -> Objective:
    """Returns the objective that `dataclasses.asdict` has taken apart."""
    fields = dict(fields)
    objective = OBJECTIVES[fields.pop('key')]
    weights = type(objective().weights)(**fields.pop('weights'))
    return objective(**fields, weights=weights)
