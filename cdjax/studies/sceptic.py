"""What is asked of any ranking: does it follow attribution, and does it take dead neurons?"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.evaluation.living import dead_share
from cdjax.evaluation.ranks import rank_correlation
from cdjax.inference.means import neuron_means
from cdjax.models import Llama
from cdjax.studies.circuits import CircuitStudyConfig, learned_rows
from cdjax.studies.circuits.ablated import number
from cdjax.studies.circuits.living import attribution, find_living
from cdjax.studies.run import Run


@dataclasses.dataclass(frozen=True)
class Sceptic:
    """What rankings of a model's neurons are held against.

    Attributes:
        attribution: float32 `[L, F]`, absolute attribution patching.
        living: bool `[L, F]`, the neurons that vary.
    """

    attribution: np.ndarray
    living: np.ndarray

    @classmethod
    def of(cls, run: Run, model: Llama, ablation: str = 'mean') -> 'Sceptic':
        """Asks a model on problems that its circuits were learned from, no more than are evaluated.

        Args:
            run: the run.
            model: its teacher or student.
            ablation: what neurons become, one of `cdjax.circuits.ablation.ABLATIONS`.
        """
        learned = run.inputs.dataset[learned_rows(run.inputs.split, CircuitStudyConfig())]
        fill = neuron_means(model, learned, **run.passes)
        return cls(
            attribution(model, learned, fill, ablation, **run.passes),
            find_living(model, learned, fill, **run.passes),
        )

    def judge(self, circuit: Circuit, masks: Sequence[np.ndarray]) -> dict[str, Any]:
        """Returns `dead`, the share of each mask's neurons that are, and `rank`, the correlation.

        Args:
            circuit: whose scores rank the neurons.
            masks: bool `[K, L, F]` each.
        """
        return {
            'dead': [dead_share(mask, self.living) for mask in masks],
            'rank': number(rank_correlation(circuit.scores, self.attribution, self.living)),
        }
