"""Which layers of a student are compared with which of its teacher, told by what both do."""

from typing import Any

import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.pairings import Context, pair_layers
from cdjax.distillation.pairs import LayerPairs
from cdjax.models import Llama
from cdjax.studies.arms import PROBLEMS
from cdjax.studies.inputs import Inputs


def pair_by_doing(
    layer_pairs: str,
    models: tuple[Llama, Llama],
    inputs: Inputs,
    alignment: Alignment,
    most: int | None,
    seed: int,
    passes: dict[str, Any],
) -> LayerPairs:
    """Returns the pairs of a pairing that reads both models, the same in every study.

    Args:
        layer_pairs: key of `cdjax.distillation.pairings.PAIRINGS`.
        models: student and teacher.
        inputs: the problems, of which training problems are read.
        alignment: site and positions that are compared.
        most: pairs at most.
        seed: of pairings that draw.
        passes: mesh and tokens of a pass.
    """
    rows = np.random.default_rng(0).permutation(inputs.split.train)[:PROBLEMS]
    context = Context(alignment.site, alignment.positions, most, seed, **passes)
    return pair_layers(layer_pairs, *models, inputs.dataset, np.sort(rows), context=context)
