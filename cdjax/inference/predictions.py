"""Predictions of a model, whole or with everything outside a circuit ablated."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.ablation import ABLATIONS, fill_of, keep_only
from cdjax.data import Dataset
from cdjax.data.encoding import NO_TOKEN
from cdjax.errors import InputError
from cdjax.inference.activations import token_columns
from cdjax.inference.rows import map_rows
from cdjax.models import SITES, Capture, Edit, Llama
from cdjax.parallel.mesh import one_device, split_neurons
from cdjax.run.options import TOKENS_PER_PASS


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model answers, for N problems.

    Attributes:
        correct: bool `[N]`, whether the most likely token is the answer. Of several tokens each
            has to be, behind the right ones before it: that is when greedy generation writes the
            answer.
        logit_difference: float32 `[N]`, logit of the answer minus that of the counterfactual
            answer, the metric of MIB-style faithfulness (arXiv 2504.13151); of several tokens the
            sum, each behind the answer's before it.
        probability: float32 `[N]`, of the answer: of several tokens the product. Under ablation
            the answer may stay the most likely token where its probability is at chance.
        tokens: int32 `[N]`, the most likely token; of answers of several tokens `[N, A]`, each
            behind the right ones before it.
    """

    correct: np.ndarray
    logit_difference: np.ndarray
    probability: np.ndarray
    tokens: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of problems answered correctly."""
        return float(self.correct.mean())

    @property
    def mean_probability(self) -> float:
        """The mean probability of the answer."""
        return float(self.probability.mean(dtype=np.float64))

    def accuracy_by_class(self, classes: np.ndarray, num_classes: int) -> np.ndarray:
        """Returns the accuracy within each class, float64 `[K]`, NaN for an empty class."""
        counts = np.bincount(classes, minlength=num_classes)
        hits = np.bincount(classes, weights=self.correct, minlength=num_classes)
        return np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)


def predict(
    model: Llama,
    dataset: Dataset,
    *,
    masks: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    fill: np.ndarray | None = None,
    ablation: str = 'mean',
    site: str = 'neurons',
    positions: tuple[int, ...] | None = None,
    mesh: Mesh | None = None,
    tokens_per_pass: int = TOKENS_PER_PASS,
    description: str | None = None,
) -> Predictions:
    """Answers every problem, with the units outside each problem's circuit ablated.

    Args:
        model: the model.
        dataset: N problems.
        masks: `[K, L, U]`, 1 for the units that stay as they are; the whole model if None. Pass
            `1 - masks` to remove the circuits instead.
        classes: int `[N]`, the circuit of each problem; circuit 0 for all if None.
        fill: float `[L, T, U, ...]`, the means that 'mean' puts in place, and 'overall_mean' their
            mean over the positions (see `neuron_means`).
        ablation: one of `ABLATIONS`.
        site: whose units the masks count.
        positions: where along the prompt they are ablated, everywhere if None: of prompts behind a
            prefix, those of the question.
        mesh: the mesh; one device if None.
        tokens_per_pass: see `rows_per_pass`. Counterfactual ablation holds all activations of
            the site of so many tokens.
        description: shows a progress bar under this name.

    Raises:
        InputError: an unknown ablation or site, a mean without a fill, masks of another shape
            than the model's, classes that have no mask.
    """
    mesh = one_device() if mesh is None else mesh
    constants, rows = {'model': model}, scored_rows(dataset)
    if masks is not None:
        ablated = ablation_inputs(
            model, dataset, masks, classes, fill=fill, ablation=ablation, site=site, mesh=mesh
        )
        constants, rows = constants | ablated[0], rows | ablated[1]
    results = map_rows(
        predict_rows(site, None if positions is None else tuple(positions)),
        constants,
        rows,
        mesh=mesh,
        tokens_per_pass=tokens_per_pass,
        description=description,
    )
    return Predictions(*results)


def scored_rows(dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns what a model reads of each problem, and what `answer_scores` holds it against."""
    return {
        'tokens': dataset.tokens,
        'lengths': dataset.lengths,
        'answers': dataset.answers,
        'counterfactual_answers': dataset.counterfactual_answers,
    }


def ablation_inputs(
    model: Llama,
    dataset: Dataset,
    masks: np.ndarray,
    classes: np.ndarray | None,
    *,
    fill: np.ndarray | None,
    ablation: str,
    site: str,
    mesh: Mesh,
    axes: tuple[str, ...] = ('K',),
) -> tuple[dict[str, jax.Array], dict[str, np.ndarray]]:
    """Returns what an ablated pass reads beside the model: constants on the mesh, and rows.

    The constants are `masks` and, of means, `fill`; the rows `classes` and, of counterfactuals,
    `counterfactual_tokens`. Arguments and errors are those of `predict`; `axes` are those of the
    masks in front of layers and units.
    """
    if ablation not in ABLATIONS:
        raise InputError(f'ablation={ablation!r}; choose one of {", ".join(ABLATIONS)}')
    masks = _small(masks)
    zeros = np.zeros(len(dataset), np.int32)
    classes = zeros if classes is None else np.asarray(classes, np.int32)
    _check_masks(masks, classes, model, site, axes)
    constants, rows = {'masks': split_neurons(masks, mesh)}, {'classes': classes}
    if ablation in ('mean', 'overall_mean'):
        if fill is None:
            raise InputError(f'ablation={ablation!r} needs the means as `fill`; see neuron_means')
        constants['fill'] = split_neurons(fill_of(ablation, fill), mesh)
    elif ablation == 'counterfactual':
        rows['counterfactual_tokens'] = dataset.counterfactual_tokens
    return constants, rows


def _small(masks: np.ndarray) -> np.ndarray:
    """Returns binary masks as bool: each problem of a pass gets its own, `[B, L, U]`."""
    binary = np.asarray(masks, bool)
    return binary if (binary == masks).all() else np.asarray(masks, np.float32)


def _check_masks(masks, classes, model, site, axes):
    shape = (model.config.num_layers, SITES[site].units(model.config))
    if masks.ndim != len(axes) + 2 or masks.shape[-2:] != shape:
        raise InputError(
            f'masks have shape {masks.shape}; those of {site!r} in this model are '
            f'[{", ".join(axes)}, {shape[0]}, {shape[1]}]'
        )
    if classes.min(initial=0) < 0 or classes.max(initial=0) >= masks.shape[-3]:
        raise InputError(
            f'classes run from {classes.min()} to {classes.max()}, and there are masks for '
            f'{masks.shape[-3]}'
        )


@functools.cache
def predict_rows(site: str, positions: tuple[int, ...] | None):
    """Returns the function that `map_rows` compiles, one and the same for equal arguments.

    Its constants are the `model` and, with a mask for each class, those of `ablation_inputs`.
    """

    def answer_rows(constants, rows):
        edits = None
        if 'masks' in constants:
            masks_BxLxU = constants['masks'][rows['classes']]
            fill = fill_of_rows(constants, rows, site)
            edits = {site: keep_only(masks_BxLxU, fill, site, positions)}
        return scores_under(edits, constants, rows)

    return answer_rows


def answer_columns(rows: dict[str, jax.Array]) -> jax.Array:
    """Returns the columns whose logits predict the answer, int `[B]`; of A tokens `[B, A]`.

    Args:
        rows: holds `lengths` int `[B]`, and `answers` as in `Dataset`.
    """
    answers = rows['answers']
    return token_columns(rows['lengths'] - 1, 1 if answers.ndim == 1 else answers.shape[1])


def fill_of_rows(constants, rows, site: str) -> jax.Array | None:
    """Returns what the others become in a batch, of what `ablation_inputs` returns."""
    if 'fill' in constants:
        return constants['fill'][:, None]
    if 'counterfactual_tokens' in rows:
        tokens = rows['counterfactual_tokens']
        _, activations = constants['model'](tokens, capture=(Capture(site),), logits_at=())
        return activations[site]
    return None


def scores_under(edits: dict[str, Edit] | None, constants, rows) -> tuple[jax.Array, ...]:
    """Returns `answer_scores` of a batch under edits."""
    model = constants['model']
    logits, _ = model(rows['tokens'], edits=edits, logits_at=answer_columns(rows))
    return answer_scores(logits, rows)


def answer_scores(logits: jax.Array, rows: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Returns the fields of `Predictions` for a batch, each `[B]`; see `logit_difference`."""
    tokens = jnp.argmax(logits, -1).astype(jnp.int32)
    difference, answers = logit_difference(logits, rows), rows['answers']
    if answers.ndim == 1:
        probability = _of_tokens(jax.nn.softmax(logits), answers)
        return tokens == answers, difference, probability, tokens
    given = answers != NO_TOKEN
    correct = ((tokens == answers) | ~given).all(axis=1)
    logs = _of_tokens(jax.nn.log_softmax(logits), jnp.maximum(answers, 0))
    return correct, difference, jnp.exp(jnp.where(given, logs, 0).sum(axis=1)), tokens


def logit_difference(logits: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
    """Returns the logit of the answer minus that of the counterfactual answer, float32 `[B]`.

    Of several tokens it is the sum over them; a counterfactual answer has as many as the answer.

    Args:
        logits: float32 `[B, V]`, at the answer position; of A tokens `[B, A, V]`.
        rows: holds `answers` and `counterfactual_answers`, int `[B]` or `[B, A]`.
    """
    answers, others = rows['answers'], rows['counterfactual_answers']
    if answers.ndim == 1:
        return _of_tokens(logits, answers) - _of_tokens(logits, others)
    of = lambda tokens: _of_tokens(logits, jnp.maximum(tokens, 0))
    return jnp.where(answers != NO_TOKEN, of(answers) - of(others), 0).sum(axis=1)


def _of_tokens(values_BxV, tokens_B):
    return jnp.take_along_axis(values_BxV, tokens_B[..., None], axis=-1)[..., 0]
