"""What studies that search again have in common: the searches, and means over their seeds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.errors import InputError
from cdjax.evaluation.selectivity import specific_parts
from cdjax.evaluation.statistics import student_interval
from cdjax.inference.predictions import Predictions
from cdjax.models import Llama
from cdjax.run.workers import work_ahead
from cdjax.studies.circuits import Ablated, unseen_rows
from cdjax.studies.circuits.config import sizes_in_neurons
from cdjax.studies.circuits.selective import selectivities
from cdjax.studies.discovery import discover_circuits
from cdjax.studies.run import Run
from cdjax.studies.study import Context
from cdjax.training.discovery import DiscoveryConfig
from cdjax.wording import number


def search(
    context: Context,
    name: str,
    config: DiscoveryConfig,
    description: str,
    *,
    run: Run | None = None,
    models: Mapping[str, Llama] | None = None,
) -> dict[str, Circuit]:
    """Returns the circuits of a search of a study's own, done once.

    Args:
        context: of the study.
        name: of the folders of this search.
        config: the search.
        description: name on the progress bar.
        run: the problems; those of the context's run if None.
        models: name → model; the run's teacher if None.
    """
    run = context.run if run is None else run
    names = ('teacher',) if models is None else tuple(models)
    return discover_circuits(
        run,
        lambda: {'teacher': run.teacher} if models is None else models,
        config,
        {key: context.circuits / name / key for key in names},
        training=context.stages / name,
        description=description,
        options=run.options.unchecked,
    )


def search_ahead(context: Context, searches: Mapping[str, Callable[[], Circuit]]) -> None:
    """Asks several workers, where a run has them, for all searches that are not done yet.

    Args:
        context: of the study.
        searches: name of each, as `search` has it → the call of it, to be pickled.
    """
    there = lambda name: (context.circuits / name / 'teacher.json').exists()
    missing = {name: call for name, call in searches.items() if not there(name)}
    work_ahead(missing, context.run.options.workers)


def with_seed(config: DiscoveryConfig, seed: int) -> DiscoveryConfig:
    """Returns the same search from another seed."""
    return dataclasses.replace(config, seed=seed)


def ablated_model(
    context: Context, circuit: Circuit, *, run: Run | None = None, model: Llama | None = None
) -> Ablated:
    """Returns a model on the unseen problems of a run, to be ablated toward a circuit's means."""
    run = context.run if run is None else run
    rows = unseen_rows(run.inputs.split, context.evaluation)
    return Ablated(
        run.teacher if model is None else model,
        run.inputs.dataset[rows],
        circuit.fill,
        context.evaluation.ablation,
        run.passes,
        circuit.num_classes,
    )


def keep_at_sizes(ablated: Ablated, circuit: Circuit, rows: np.ndarray, sizes) -> list[Predictions]:
    """Returns what is answered with only the circuits, at each size in neurons."""
    masks = [circuit.at_size(size).masks for size in sizes]
    return ablated.only(masks, circuit.assignments[rows])


def keep_and_take_out(
    ablated: Ablated, circuit: Circuit, classes: np.ndarray, sizes: Sequence[int]
) -> list[dict[str, float | None]]:
    """Returns at each size what circuits keep, and how selective their specific parts are.

    Args:
        ablated: the model on N problems.
        circuit: the circuits.
        classes: int `[N]`, of the problems.
        sizes: in neurons.

    Returns:
        For each size `only` and `only_probability`, accuracy and mean probability of the answer
        with only the circuits; `selectivity` and `selectivity_probability` of the specific parts
        (`cdjax.evaluation.selectivity`), None of one class.
    """
    masks = [circuit.at_size(size).masks for size in sizes]
    points = []
    for mask, only in zip(masks, ablated.only(masks, classes), strict=True):
        taken_out = {'accuracy': None, 'probability': None}
        if circuit.num_classes > 1:
            taken_out = selectivities(ablated.without_each(specific_parts(mask)), classes)
        points.append(
            {
                'only': only.accuracy,
                'only_probability': only.mean_probability,
                'selectivity': taken_out['accuracy'],
                'selectivity_probability': taken_out['probability'],
            }
        )
    return points


def study_sizes(context: Context, neurons: int) -> list[int]:
    """Returns the sizes of `--sizes` in neurons, ascending, of a model of so many."""
    return sorted({*sizes_in_neurons(context.evaluation.sizes, neurons)})


def mean_with_interval(values: Sequence[float], *, scale: float = 1, digits: int = 2) -> str:
    """Returns the mean over seeds and half of Student's 95 % interval, as `72.4 ± 3.1`."""
    values = np.asarray(values, np.float64)
    text = number(scale * float(values.mean()), digits)
    interval = student_interval(values)
    if interval is None:
        return text
    return f'{text} ± {number(scale * (interval[1] - interval[0]) / 2, digits)}'


def check_any_size(config: DiscoveryConfig, study: str) -> None:
    """Raises InputError unless masks are trained at every size, which some studies vary."""
    if config.objective.key != 'any_size':
        raise InputError(
            f'studies={study} varies the any_size objective: leave objective='
            f'{config.objective.key} out, or that study'
        )
