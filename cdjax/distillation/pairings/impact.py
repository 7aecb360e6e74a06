"""Layers whose ablation costs as much: the pairing of the authors' later version.

What is ablated is what is going to be compared: the neurons of a layer, its heads, its MLP's or its
attention's output. Without the residual stream itself no model can do anything, so that where that
is compared the neurons are ablated.
"""

import numpy as np

from cdjax.data import Dataset
from cdjax.distillation.alignment import LayerPairs
from cdjax.distillation.pairings.pairing import Context, Pairing
from cdjax.errors import InputError
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.models import SITES, Llama


def ablation_impact(
    model: Llama, dataset: Dataset, *, name: str, site: str = 'neurons', **passes
) -> np.ndarray:
    """Returns what each layer's units are worth, float64 `[L]`, 1 for the layer worth most.

    The accuracy lost where all units of the layer are set to their means at each position, in
    parts of the largest loss. A layer whose ablation helps is below 0.

    Args:
        model: the model.
        dataset: the problems, of prompts of one length.
        name: of the model, for the message.
        site: whose units are ablated, one within a part of a block.
        **passes: `mesh` and `tokens_per_pass`.

    Raises:
        InputError: no ablation costs accuracy, as of a model that cannot do the task.
    """
    fill = neuron_means(model, dataset, site=site, **passes)
    layers, units = model.config.num_layers, SITES[site].units(model.config)
    ablated = {'fill': fill, 'site': site, **passes}
    whole = predict(model, dataset, **passes).accuracy
    lost = []
    for layer in range(layers):
        masks = np.ones((1, layers, units), bool)
        masks[:, layer] = False
        lost.append(whole - predict(model, dataset, masks=masks, **ablated).accuracy)
    if max(lost) <= 0:
        raise InputError(
            f'layer_pairs by ablation impact: the {name} answers {whole:.1%} of the problems, and '
            f'loses none of it with the {site} of any layer ablated: pair by depth, or by numbers'
        )
    return np.array(lost) / max(lost)


def _impacts(student, teacher, dataset, rows, context: Context):
    problems = dataset[rows]
    site = context.site if SITES[context.site].module is not None else 'neurons'
    how = {'site': site, **context.passes}
    of = lambda model, name: ablation_impact(model, problems, name=name, **how)
    of_student, of_teacher = of(student, 'student'), of(teacher, 'teacher')
    most = len(of_student) if context.most is None else context.most
    # Of equal impact the earlier layer comes first, whatever the sort.
    chosen = np.sort(np.argsort(-of_student, kind='stable')[:most])
    return of_student, of_teacher, chosen


def nearest(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs each of the student's layers of most impact with the teacher layer of nearest impact.

    Several of the student's may share one of the teacher's.
    """
    of_student, of_teacher, chosen = _impacts(student, teacher, dataset, rows, context)
    return tuple((int(s), int(np.argmin(np.abs(of_teacher - of_student[s])))) for s in chosen)


def one_to_one(student, teacher, dataset, rows, *, context) -> LayerPairs:
    """Pairs as `nearest`, no teacher layer twice: the least sum of differences of impact.

    Of a student with more layers than the teacher, those stay alone that fit least.
    """
    from scipy.optimize import linear_sum_assignment  # a third of a second, for this pairing alone

    of_student, of_teacher, chosen = _impacts(student, teacher, dataset, rows, context)
    apart = np.abs(of_student[chosen][:, None] - of_teacher[None])
    pairs = zip(*linear_sum_assignment(apart), strict=True)
    return tuple((int(chosen[s]), int(t)) for s, t in pairs)


ABLATION_IMPACT = Pairing(
    'ablation_impact', 'nearest impact of ablating what is compared', nearest, reads_models=True
)
IMPACT_ONE_TO_ONE = Pairing(
    'impact_one_to_one',
    'nearest impact of ablating what is compared, no teacher layer twice',
    one_to_one,
    reads_models=True,
)
