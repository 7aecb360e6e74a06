"""Latent classes, the neuron masks that belong to them, and the artefact that holds both.

Ways to score neurons are in `cdjax.circuits.methods`, which stands above the trainings.
"""

from cdjax.circuits.ablation import (
    ABLATIONS,
    keep_only,
)
from cdjax.circuits.circuit import (
    Circuit,
    model_hash,
    tokenizer_hash,
)
from cdjax.circuits.classes import (
    CLASSES,
    ClassScheme,
    Sorting,
)
from cdjax.circuits.classifier import (
    Classifier,
    Encoding,
    straight_through_gumbel_softmax,
)
from cdjax.circuits.masks import (
    MaskGenerator,
    binarize,
    log_ranks,
    random_masks,
)

__all__ = [
    'ABLATIONS',
    'CLASSES',
    'Circuit',
    'ClassScheme',
    'Classifier',
    'Encoding',
    'MaskGenerator',
    'Sorting',
    'binarize',
    'keep_only',
    'log_ranks',
    'model_hash',
    'random_masks',
    'straight_through_gumbel_softmax',
    'tokenizer_hash',
]
