"""What all attributions have in common: the effect of each unit on what the model says, averaged.

An effect of a unit on a problem is what ablating it, and it alone, would take off the logit of the
answer, over that of the counterfactual answer; attributions estimate it from gradients. The effects
of a problem are summed over positions, for that is how a circuit is ablated, and then averaged
over the problems of a class: their absolute values, so that effects of either sign count and do not
cancel, the root of their mean square, or as they are.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.circuits.ablation import fill_of
from cdjax.circuits.methods.class_scores import average_by_class
from cdjax.circuits.methods.method import Context, Method, Request
from cdjax.colours import paler
from cdjax.data import Dataset
from cdjax.errors import InputError
from cdjax.models import SITES, Capture, Llama
from cdjax.parallel.mesh import one_device, split_neurons

AVERAGES = ('absolute', 'rms', 'signed')
# What a phrase says of those that are not the usual one, and how much paler their curves are.
_OTHERS = {'rms': ('by its root mean square', 0.35), 'signed': ('by its signed mean', 0.6)}

# `(constants, rows, *, site, ablation) -> float32 [B, L, U]`; see `attribution_scores`.
Effects = Callable[..., jax.Array]


def attribution(
    key: str,
    title: str,
    phrase: str,
    colour: str,
    effects: Effects,
    *,
    average: str = 'absolute',
    check: Callable[[str, Request], None] | None = None,
    **fields: Any,
) -> Method:
    """Returns the method that scores units by the average of their effects.

    Args:
        key: see `Method`, like the others.
        title: as there.
        phrase: as there.
        colour: as there.
        effects: `(constants, rows, *, site, ablation) -> float32 [B, L, U]`, of a batch of
            problems; `constants` holds `model` and `fill`, the rows are those of
            `cdjax.circuits.methods.class_scores.columns`. A function of a module, so that it is one
            and the same at every call.
        average: one of `AVERAGES`, how they are averaged over problems.
        check: `(key, request)` raises InputError for what the effects would refuse;
            `check_counterfactuals` if None.
        **fields: others of `Method`.
    """
    if average not in AVERAGES:
        raise ValueError(f'average={average!r}: choose from {", ".join(AVERAGES)}')
    scores = functools.partial(attribution_scores, effects=effects, average=average)
    check = functools.partial(check_counterfactuals if check is None else check, key)
    return Method(key, title, phrase, colour, scores=scores, check=check, **fields)


def attributions(
    key: str,
    title: str,
    phrase: str,
    colour: str,
    effects: Effects,
    *,
    averages: tuple[str, ...] = AVERAGES,
    **fields: Any,
) -> tuple[Method, ...]:
    """Returns an attribution by each average: KEY, and KEY_rms and KEY_signed where they are asked.

    They share their passes, and none but the first is run by default.

    Args:
        key: of the first; see `attribution`, like the others.
        title: as there.
        phrase: as there.
        colour: as there, a name; those of other averages are paler.
        effects: as there.
        averages: of `AVERAGES`, the usual one first. Effects that are no less than 0 have no signed
            average of their own.
        **fields: others of `attribution`.
    """
    found = [attribution(key, title, phrase, colour, effects, average=averages[0], **fields)]
    for average in averages[1:]:
        words, pale = _OTHERS[average]
        named = (f'{key}_{average}', f'{title}, {average}', f'{phrase} {words}')
        other = fields | {'average': average, 'by_default': False}
        found.append(attribution(*named, paler(colour, pale), effects, **other))
    return tuple(found)


def attribution_scores(
    model: Llama,
    dataset: Dataset,
    rows: np.ndarray,
    classes: np.ndarray,
    *,
    context: Context,
    effects: Effects,
    average: str,
) -> np.ndarray:
    """Scores units by the average of their effects over the problems of each class.

    All averages are taken in one pass, which methods of the same effects share.
    """
    constants = device_constants(model, context)
    averaged = _averaged(effects, context.site, context.ablation)
    found = average_by_class(averaged, constants, dataset, rows, classes, context)[average]
    return np.sqrt(found) if average == 'rms' else found


@functools.cache
def _averaged(effects, site, ablation):
    def averaged(constants, rows):
        effect = effects(constants, rows, site=site, ablation=ablation)
        return {'absolute': jnp.abs(effect), 'rms': jnp.square(effect), 'signed': effect}

    return averaged


def device_constants(model: Llama, context: Context, ablation: str | None = None) -> dict[str, Any]:
    """Returns what all passes share, on the mesh: `model` and `fill [L, T, U, ...]`.

    Args:
        model: the model.
        context: of the method.
        ablation: the one that fills, that in force if None; zeros where it has no fill of its own.
    """
    mesh = one_device() if context.mesh is None else context.mesh
    fill = fill_of(context.ablation if ablation is None else ablation, context.fill)
    fill = np.zeros(np.shape(context.fill), np.float32) if fill is None else fill
    return {'model': model, 'fill': split_neurons(fill, mesh)}


def batch_fill(
    constants: dict[str, Any], rows: dict[str, jax.Array], *, site: str, ablation: str
) -> jax.Array:
    """Returns what ablation makes of the units of a batch, float32, for `[L, B, T, ...]`.

    Args:
        constants: see `device_constants`.
        rows: B problems with their `counterfactual_tokens`.
        site: whose units.
        ablation: one of `cdjax.circuits.ablation.ABLATIONS`.
    """
    if ablation != 'counterfactual':
        return constants['fill'][:, None]
    model, tokens = constants['model'], rows['counterfactual_tokens']
    return model(tokens, capture=(Capture(site),), logits_at=())[1][site].astype(jnp.float32)


def per_unit(contributions: jax.Array, site: str) -> jax.Array:
    """Returns contributions `[L, B, T, U, ...]` summed over positions and coordinates, `[B, L, U]`.

    Args:
        contributions: of each coordinate of each unit.
        site: whose units.
    """
    within = tuple(range(4, 3 + len(SITES[site].axes)))
    return jnp.moveaxis(contributions.sum((2, *within)), 1, 0)


def check_counterfactuals(key: str, request: Request) -> None:
    """Raises InputError where the logit difference has nothing to be taken from.

    Args:
        key: of the method.
        request: what it is asked for.
    """
    dataset = request.dataset
    alike = dataset.counterfactual_answers == dataset.answers
    lacking = int((alike if alike.ndim == 1 else alike.all(axis=1)).sum())
    if lacking:
        raise InputError(
            f'methods={key} needs a counterfactual with another answer for each problem, and '
            f'{lacking:,} of {len(dataset):,} have none: give the problems some, or leave it out'
        )
