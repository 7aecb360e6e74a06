"""What is asked of any ranking: does it follow attribution, and does it take dead neurons?"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.evaluation.living import dead_share
from cdjax.evaluation.ranks import rank_correlation
from cdjax.models import Llama
from cdjax.studies.circuits import CircuitStudyConfig, learned_rows
from cdjax.studies.circuits.ablated import number
from cdjax.studies.circuits.living import attribution, find_living
from cdjax.studies.run import Run


@dataclasses.dataclass(frozen=True)
class Sanity:
    """What rankings of a model's neurons are held against.

    Attributes:
        attribution: float32 `[L, F]`, absolute attribution patching.
        living: bool `[L, F]`, the neurons that vary.
    """

    attribution: np.ndarray
    living: np.ndarray

    @classmethod
    def of(
        cls,
        run: Run,
        model: Llama,
        fill: np.ndarray,
        config: CircuitStudyConfig = CircuitStudyConfig(),
        **passes,
    ) -> 'Sanity':
        """Asks a model on problems that its circuits were learned from.

        Args:
            run: the run.
            model: its teacher or student.
            fill: float32 `[L, T, F]`, mean activations.
            config: how many problems, which of them, and what neurons become.
            **passes: mesh and tokens of a pass.
        """
        learned = run.inputs.dataset[learned_rows(run.inputs.split, config)]
        return cls(
            attribution(model, learned, fill, config.ablation, **passes),
            find_living(model, learned, fill, **passes),
        )

    def check(self, circuit: Circuit, masks: Sequence[np.ndarray]) -> dict[str, Any]:
        """Returns `dead`, the share of each mask's neurons that are, and `rank`, the correlation.

        Args:
            circuit: whose scores rank the neurons.
            masks: bool `[K, L, F]` each.
        """
        return {
            'dead': [dead_share(mask, self.living) for mask in masks],
            'rank': number(rank_correlation(circuit.scores, self.attribution, self.living)),
        }
