"""What units hold, and what they write."""

from cdjax.distillation.readings.reading import Reading

ACTIVATIONS = Reading('activations', 'activations')
CONTRIBUTIONS = Reading(
    'contributions', 'what units write into the residual stream, summed', written=True
)
