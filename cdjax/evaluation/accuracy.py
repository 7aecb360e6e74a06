"""Predictions of a model, whole or with all neurons outside a circuit ablated."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.ablation import ABLATIONS, keep_only
from cdjax.data import Dataset
from cdjax.models import Llama
from cdjax.parallel.batching import map_rows
from cdjax.parallel.mesh import split_neurons


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model answers, for N problems.

    Attributes:
        correct: bool `[N]`, whether the most likely token is the answer.
        logit_difference: float32 `[N]`, logit of the answer minus that of the counterfactual
            answer, the metric of MIB-style faithfulness (arXiv 2504.13151).
    """

    correct: np.ndarray
    logit_difference: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of problems answered correctly."""
        return float(self.correct.mean())

    def accuracy_by_class(self, classes: np.ndarray, num_classes: int) -> np.ndarray:
        """Returns the accuracy within each class, float64 `[K]`, NaN for an empty class."""
        counts = np.bincount(classes, minlength=num_classes)
        hits = np.bincount(classes, weights=self.correct, minlength=num_classes)
        return np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)


def predict(
    model: Llama,
    dataset: Dataset,
    *,
    mesh: Mesh,
    masks: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    fill: np.ndarray | None = None,
    ablation: str = 'mean',
    batch_size: int = 512,
    description: str | None = None,
) -> Predictions:
    """Answers every problem, with the neurons outside each problem's circuit ablated.

    Args:
        model: the model.
        dataset: N problems.
        mesh: the mesh.
        masks: `[K, L, F]`, 1 for the neurons that stay as they are; the whole model if None. Pass
            `1 - masks` to remove the circuits instead.
        classes: int `[N]`, the circuit of each problem; circuit 0 for all if None.
        fill: float `[L, T, F]`, the mean activations that 'mean' puts in place of a neuron's.
        ablation: one of `ABLATIONS`.
        batch_size: problems at once.
        description: shows a progress bar under this name.

    Raises:
        ValueError: an unknown ablation, or 'mean' without a fill.
    """
    if ablation not in ABLATIONS:
        raise ValueError(f'ablation={ablation!r}; choose one of {", ".join(ABLATIONS)}')
    if masks is not None and ablation == 'mean' and fill is None:
        raise ValueError("ablation='mean' needs the mean activations as `fill`; see neuron_means")
    rows = {
        'tokens': dataset.tokens,
        'lengths': dataset.lengths,
        'answers': dataset.answers,
        'counterfactual_answers': dataset.counterfactual_answers,
    }
    constants = {'model': model}
    if masks is not None:
        constants['masks'] = split_neurons(np.asarray(masks, np.float32), mesh)
        zeros = np.zeros(len(dataset), np.int32)
        rows['classes'] = zeros if classes is None else np.asarray(classes, np.int32)
        if ablation == 'mean':
            constants['fill'] = split_neurons(np.asarray(fill, np.float32), mesh)
        elif ablation == 'counterfactual':
            rows['counterfactual_tokens'] = dataset.counterfactual_tokens
    correct, difference = map_rows(
        _predict_rows, constants, rows, mesh=mesh, batch_size=batch_size, description=description
    )
    return Predictions(correct, difference)


def _predict_rows(constants, rows):
    model, edits = constants['model'], None
    if 'masks' in constants:
        fill_LxBxTxF = None
        if 'fill' in constants:
            fill_LxBxTxF = constants['fill'][:, None]
        elif 'counterfactual_tokens' in rows:
            _, other = model(rows['counterfactual_tokens'], capture=('neurons',), logits_at=-1)
            fill_LxBxTxF = other['neurons']
        masks_BxLxF = constants['masks'][rows['classes']]
        edits = {'neurons': keep_only(masks_BxLxF, fill_LxBxTxF)}
    logits, _ = model(rows['tokens'], edits=edits, logits_at=rows['lengths'] - 1)
    pick = lambda token: jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    difference = pick(rows['answers']) - pick(rows['counterfactual_answers'])
    return jnp.argmax(logits, -1) == rows['answers'], difference


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of the mean of `values` `[N]`.

    Args:
        values: one number for each problem (or for each seed).
        level: coverage, in (0, 1).
        samples: resamples.
        seed: of the resampling.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(samples)])
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
