"""What planted neurons do once a teacher is trained: the ground truth is planted ∩ necessary."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.evaluation.living import living_neurons
from cdjax.inference.means import neuron_deviations, neuron_means
from cdjax.inference.predictions import predict
from cdjax.models import Llama
from cdjax.planted.plan import Plan
from cdjax.run.options import TOKENS_PER_PASS

# A group of neurons is necessary for a class if the probability of its answers falls by so much
# without it.
NECESSARY = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Verification:
    """What a trained teacher says of its plan, on problems of unseen forms.

    Attributes:
        necessary: bool `[K, L, F]`, the living planted neurons of the groups (S or C_k of one
            layer) without which class k is answered worse.
        living: bool `[L, F]`, neurons that vary, see `cdjax.evaluation.living`.
        figures: the mean probability of the answer by class, lists `[K]`: `whole`; with `only` the
            class's circuit; `without_specific`, what is left of each class without its own C_k, and
            `without_other_specific`, the mean over the C_j of others; with only a `wrong` circuit;
            with `only_shared` and `only_decoys`. `layers[]`: `without_shared`, `without_specific`
            and `without_decoys` of one layer.
    """

    necessary: np.ndarray
    living: np.ndarray
    figures: dict[str, Any]


def verify(
    model: Llama,
    dataset: Dataset,
    learned: np.ndarray,
    unseen: np.ndarray,
    classes: np.ndarray,
    plan: Plan,
    *,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> Verification:
    """Takes planted neurons out, group by group and layer by layer, under mean ablation.

    Args:
        model: the trained teacher.
        dataset: N problems.
        learned: int, the problems that the means are taken over.
        unseen: int, the problems that are answered.
        classes: int `[N]`, the planted classes.
        plan: the neurons of each class.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
    """
    passes = {'mesh': mesh, 'tokens_per_pass': tokens_per_pass}
    problems, of_row, K = dataset[unseen], classes[unseen], plan.num_classes
    fill = neuron_means(model, dataset[learned], **passes)

    def probability(masks: np.ndarray, circuit: np.ndarray) -> list[float]:
        said = predict(model, problems, masks=masks, classes=circuit, fill=fill, **passes)
        return [float(said.probability[of_row == k].mean()) for k in range(K)]

    one = np.zeros_like(of_row)
    living = living_neurons(neuron_deviations(model, dataset[learned], fill, **passes))
    whole = probability(np.ones((1, *living.shape), bool), one)
    figures = {
        'whole': whole,
        'only': probability(plan.circuits, of_row),
        'without_specific': probability(~plan.specific, of_row),
        'without_other_specific': _mean_over_others(~plan.specific, of_row, probability),
        'wrong': _mean_over_others(plan.circuits, of_row, probability),
        'only_shared': probability(plan.shared[None], one),
        'only_decoys': probability(plan.decoys[None], one),
        'layers': [],
    }
    necessary = np.zeros_like(plan.specific)
    for layer in range(len(living)):
        here = (np.arange(len(living)) == layer)[:, None]
        lost = {
            'without_shared': probability(~(plan.shared & here)[None], one),
            'without_specific': probability(~(plan.specific & here), of_row),
            'without_decoys': probability(~(plan.decoys & here)[None], one),
        }
        figures['layers'].append(lost)
        for k in range(K):
            for group, name in ((plan.shared, 'shared'), (plan.specific[k], 'specific')):
                if whole[k] - lost[f'without_{name}'][k] >= NECESSARY:
                    necessary[k] |= group & here & living
    return Verification(necessary, living, figures)


def _mean_over_others(
    masks: np.ndarray, classes: np.ndarray, probability: Callable[..., list[float]]
) -> list[float]:
    """Returns the mean over the masks of all classes but a problem's own, by class."""
    K = len(masks)
    shifted = [probability(masks, (classes + shift) % K) for shift in range(1, K)]
    return np.mean(shifted, axis=0).tolist()
