"""Layers whose ablation costs as much: the pairing of the authors' later version.

What is ablated is what is going to be compared: the neurons of a layer, its heads, its MLP's or its
attention's output. Without the residual stream itself no model can do anything, so that where that
is compared the neurons are ablated.
"""

import numpy as np

from cdjax.data import Dataset
from cdjax.distillation.pairings.pairing import Context, Pairing
from cdjax.distillation.pairs import LayerPairs
from cdjax.errors import InputError
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.models import SITES, Llama


def ablation_impact(
    model: Llama,
    dataset: Dataset,
    *,
    name: str,
    site: str = 'neurons',
    each_unit: bool = False,
    **passes,
) -> np.ndarray:
    """Returns what each layer's units are worth, float64 `[L]`, 1 for the layer worth most.

    The accuracy lost where all units of the layer are set to their means at each position, in
    parts of the largest loss. A layer whose ablation helps is below 0.

    Args:
        model: the model.
        dataset: the problems, of prompts of one length.
        name: of the model, for the message.
        site: whose units are ablated, one within a part of a block.
        each_unit: whether each unit is ablated alone: what is returned is `[L, U]` then.
        **passes: `mesh` and `tokens_per_pass`.

    Raises:
        InputError: no ablation costs accuracy, as of a model that cannot do the task.
    """
    fill = neuron_means(model, dataset, site=site, **passes)
    layers, units = model.config.num_layers, SITES[site].units(model.config)
    ablated = {'fill': fill, 'site': site, **passes}
    whole = predict(model, dataset, **passes).accuracy
    lost = np.empty((layers, units) if each_unit else layers)
    for place in np.ndindex(lost.shape):
        masks = np.ones((1, layers, units), bool)
        masks[0][place] = False
        lost[place] = whole - predict(model, dataset, masks=masks, **ablated).accuracy
    if lost.max() <= 0:
        what = f'any one of its {site} units' if each_unit else f'the {site} of any layer'
        raise InputError(
            f'layer_pairs by ablation impact: the {name} answers {whole:.1%} of the problems, and '
            f'loses none of it with {what} ablated: pair by depth, or by numbers'
        )
    return lost / lost.max()


def impacts(
    student, teacher, dataset, rows, context: Context, **which
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the impacts in both models, in one row, and which of the student's are paired."""
    problems = dataset[rows]
    site = context.site if SITES[context.site].module is not None else 'neurons'
    how = {'site': site, **which, **context.passes}
    of = lambda model, name: ablation_impact(model, problems, name=name, **how).reshape(-1)
    of_student, of_teacher = of(student, 'student'), of(teacher, 'teacher')
    most = len(of_student) if context.most is None else context.most
    # Of equal impact the earlier layer comes first, whatever the sort.
    chosen = np.sort(np.argsort(-of_student, kind='stable')[:most])
    return of_student, of_teacher, chosen


def match_nearest(of_student: np.ndarray, of_teacher: np.ndarray, chosen: np.ndarray):
    """Returns for each that was chosen the place of nearest impact in the teacher."""
    return tuple((int(s), int(np.argmin(np.abs(of_teacher - of_student[s])))) for s in chosen)


def match_one_to_one(of_student: np.ndarray, of_teacher: np.ndarray, chosen: np.ndarray):
    """Returns pairs of the least sum of differences of impact, no place of the teacher twice."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, for this pairing alone

    apart = np.abs(of_student[chosen][:, None] - of_teacher[None])
    pairs = zip(*linear_sum_assignment(apart), strict=True)
    return tuple((int(chosen[s]), int(t)) for s, t in pairs)


def nearest(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs each of the student's layers of most impact with the teacher layer of nearest impact.

    Several of the student's may share one of the teacher's.
    """
    return match_nearest(*impacts(student, teacher, dataset, rows, context))


def one_to_one(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs as `nearest`, no teacher layer twice: the least sum of differences of impact.

    Of a student with more layers than the teacher, those stay alone that fit least.
    """
    return match_one_to_one(*impacts(student, teacher, dataset, rows, context))


ABLATION_IMPACT = Pairing(
    'ablation_impact', 'nearest impact of ablating what is compared', nearest, reads_models=True
)
IMPACT_ONE_TO_ONE = Pairing(
    'impact_one_to_one',
    'nearest impact of ablating what is compared, no teacher layer twice',
    one_to_one,
    reads_models=True,
)
