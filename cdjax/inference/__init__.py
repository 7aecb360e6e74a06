"""A model run over a data set, so many tokens at a time: what it says, does, and depends on."""

from cdjax.inference.activations import (
    answer_activations,
    answer_logits_and_activations,
)
from cdjax.inference.encodings import (
    encode,
)
from cdjax.inference.gradients import metric_gradients, unit_gradients
from cdjax.inference.means import (
    neuron_means,
)
from cdjax.inference.predictions import (
    Predictions,
    logit_difference,
    predict,
)
from cdjax.inference.rows import (
    class_means,
    map_rows,
    mean_rows,
)
from cdjax.inference.sweeps import (
    circuit_model,
    predict_circuits,
    predict_each,
)

__all__ = [
    'Predictions',
    'answer_activations',
    'answer_logits_and_activations',
    'circuit_model',
    'class_means',
    'encode',
    'logit_difference',
    'map_rows',
    'mean_rows',
    'metric_gradients',
    'neuron_means',
    'predict',
    'predict_circuits',
    'predict_each',
    'unit_gradients',
]
