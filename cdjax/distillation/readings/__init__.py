"""What of the units of a site is compared, one file for each or for a family.

A reading of a user's own is added to `READINGS` before a study runs; flags know it by its key then.
"""

from cdjax.distillation.readings import attributions, units
from cdjax.distillation.readings.reading import Read, Reading
from cdjax.registry import Registry

READINGS: Registry[Reading] = Registry('reading')
ACTIVATIONS = READINGS.add(units.ACTIVATIONS)
CONTRIBUTIONS = READINGS.add(units.CONTRIBUTIONS)
ATTRIBUTIONS = READINGS.add(attributions.ATTRIBUTIONS)

__all__ = ['ACTIVATIONS', 'ATTRIBUTIONS', 'CONTRIBUTIONS', 'READINGS', 'Read', 'Reading']
