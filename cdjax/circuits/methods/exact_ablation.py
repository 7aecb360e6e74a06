"""Exact ablation: each neuron in turn is ablated, and what the model loses is measured."""

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.circuits.methods.attribution import (
    attribution_scores,
    batch_fill,
    check_counterfactuals,
)
from cdjax.circuits.methods.method import Context, Method, Request
from cdjax.data import Dataset
from cdjax.errors import InputError
from cdjax.inference.predictions import answer_columns, logit_difference
from cdjax.models import SITES, Edit, Llama
from cdjax.models.config import LlamaConfig

# Problems that every unit is ablated on: enough to rank units by an average, and no more.
PROBLEMS = 256
# Answers asked of the model, a problem with a unit ablated each: of 16,384 units with 256 problems.
MOST_ANSWERS = 2**22
# Units that are ablated side by side, which saves little on a CPU and fills an accelerator.
TOGETHER = 16


def exact_ablation(
    model: Llama, dataset: Dataset, rows: np.ndarray, classes: np.ndarray, *, context: Context
) -> np.ndarray:
    """Scores units by the mean of |m(whole) - m(without the unit)|, m the logit difference.

    Of the problems, `PROBLEMS` are drawn. What gradients estimate is computed here; of what units
    do together it knows nothing either.

    Raises:
        InputError: more units than can be ablated one by one.
    """
    check_affordable(model.config, len(rows), context.site)
    rng = np.random.default_rng(context.seed)
    drawn = np.sort(rng.permutation(rows)[:PROBLEMS])
    return attribution_scores(
        model, dataset, drawn, classes, context=context, effects=exact_effects, average='absolute'
    )


def exact_effects(constants: dict, rows: dict, *, site: str, ablation: str) -> jax.Array:
    """Returns `m(whole) - m(without the unit)` for every unit, float32 `[B, L, U]`.

    Args:
        constants: see `cdjax.circuits.methods.attribution.attribution`, like the others.
        rows: as there.
        site: as there.
        ablation: as there.
    """
    model, at = constants['model'], answer_columns(rows)
    layers, (units, *within) = model.config.num_layers, SITES[site].shape(model.config)
    fill = batch_fill(constants, rows, site=site, ablation=ablation)

    def answered(edits):
        return logit_difference(model(rows['tokens'], edits=edits, logits_at=at)[0], rows)

    def without(unit):
        kept = (jnp.arange(layers * units) != unit).astype(jnp.float32)
        kept = kept.reshape(layers, 1, 1, units, *(1,) * len(within))
        return answered({site: Edit(kept, center=fill)})

    lost = jax.lax.map(without, jnp.arange(layers * units), batch_size=TOGETHER)
    return (answered(None)[None] - lost).T.reshape(-1, layers, units)


def check_affordable(config: LlamaConfig, problems: int, site: str) -> None:
    """Raises InputError where ablating unit by unit asks too much of a model.

    Args:
        config: the shape of the model.
        problems: problems that are learned from.
        site: whose units.
    """
    units, problems = config.num_layers * SITES[site].units(config), min(problems, PROBLEMS)
    if units * problems > MOST_ANSWERS:
        raise InputError(
            f'methods={EXACT_ABLATION.key} would run the model {units * problems:,} times, with '
            f'each of {units:,} units ablated on {problems} problems, and {MOST_ANSWERS:,} are the '
            'most: take atp or integrated_gradients, which estimate the same, in its place'
        )


def _check(request: Request) -> None:
    check_counterfactuals(EXACT_ABLATION.key, request)
    check_affordable(request.shape, len(request.dataset), 'neurons')


EXACT_ABLATION = Method(
    'exact_ablation',
    'exact ablation',
    'ablation one by one',
    'orange',
    scores=exact_ablation,
    check=_check,
    line='dashed',
    by_default=False,
)
