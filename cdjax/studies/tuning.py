"""Hyperparameters of a search for circuits, chosen on a share of the training forms.

By successive halving in two rounds (Jamieson & Talwalkar 2016, arXiv 1502.07943): every setting is
searched with one seed, and the best of them, beside the first setting, with all seeds. The problems
that circuits are evaluated on elsewhere take no part in it.
"""

import copy
import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.data.splits import validation_split
from cdjax.errors import InputError
from cdjax.parallel.mesh import one_device
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import as_json, check_workdir, open_workdir, stored_config
from cdjax.run.options import RunOptions
from cdjax.run.results import stored
from cdjax.run.workers import check_workers, work_ahead
from cdjax.studies.circuits import Ablated, CircuitStudyConfig, unseen_rows
from cdjax.studies.circuits.config import EVALUATED, TELLING_SIZES, sizes_in_neurons
from cdjax.studies.discovery import check_accuracy, check_problems, discover_circuits
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.outlook import (
    Announce,
    Outlook,
    Stage,
    discovery_bytes,
    no_announcement,
    training_stage,
)
from cdjax.studies.places import Places
from cdjax.studies.run import Run
from cdjax.studies.searches import keep_and_take_out, with_seed
from cdjax.training.discovery import DiscoveryConfig, check_discovery

# What `keep_and_take_out` tells of one size.
Point = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """Which settings are compared, and on what.

    Attributes:
        inputs: the teacher, the problems and their split.
        settings: name of each setting → the search. The first is that in force, which stays where
            no other is better by more than its standard error.
        validation: part of the training forms that settings are compared on, and not searched with.
        sizes: shares of the neurons; a setting's score is the mean over these of the accuracy with
            only the circuits.
        ablation: what the other neurons become.
        seeds: of the searches.
        finalists: settings that are searched with all seeds, beside the first.
        problems: of the validation share that are answered, at most.
    """

    inputs: InputsConfig
    settings: tuple[tuple[str, DiscoveryConfig], ...]
    validation: float = 0.2
    sizes: tuple[float, ...] = TELLING_SIZES
    ablation: str = 'mean'
    seeds: tuple[int, ...] = (0, 1, 2)
    finalists: int = 3
    problems: int = EVALUATED

    def __post_init__(self):
        CircuitStudyConfig(self.sizes, max_problems=self.problems, ablations=(self.ablation,))
        names = [name for name, _ in self.settings]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f'grid: {twice!r} stands there twice: leave one of them out')
        if len(names) < 2:
            raise InputError('grid: there is nothing to choose from; name a setting a line')
        if not 0 < self.validation < 1:
            raise InputError(
                f'validation_share={self.validation}: a part of the training forms, above 0 and '
                'below 1'
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f'seeds={",".join(map(str, self.seeds))}: name each of them once')
        if self.finalists < 1:
            raise InputError(f'finalists={self.finalists}: at least 1 is needed')


def tune(
    config: TuningConfig,
    workdir: epath.PathLike,
    *,
    mesh: Mesh | None = None,
    options: RunOptions = RunOptions(),
    announce: Announce = no_announcement,
) -> dict[str, Any]:
    """Searches with each setting, and chooses one; what is done already is read from disk.

    Args:
        config: what is compared.
        workdir: the folder of the run; `tuning.json` is written there.
        mesh: the mesh; one device if None.
        options: what searches write and check on the way, and how many of them run at once.
        announce: is told what is going to be done, before a model is loaded and the folder claimed.

    Returns:
        `problems`, of the validation share that are answered; `sizes`; `settings[]` with `name`,
        `seeds`, `points[seed][size]` (see `keep_and_take_out`), `score` of each seed and its `mean`
        and standard `error`, None with one seed; `chosen`, a name; and `most_selective`, see
        there.

    Raises:
        InputError: wrong inputs, a setting that cannot be searched, or a folder of another run.
    """
    mesh = one_device() if mesh is None else mesh
    check_workers(options.workers, mesh)
    inputs = Inputs(config.inputs)
    measure = CircuitStudyConfig(config.sizes, max_problems=config.problems)
    measure.check_sizes(inputs.teacher_config.num_neurons)
    for name, discovery in config.settings:
        try:
            check_discovery(
                {'teacher': inputs.teacher_config},
                inputs.dataset,
                discovery,
                mesh=mesh,
                batch_flag='discovery_batch_size',
            )
            check_problems(inputs, discovery)
        except InputError as error:
            raise InputError(f'grid, {name!r}: {error}') from error
    within = copy.copy(inputs)
    within.split = validation_split(
        inputs.dataset, inputs.split, part=config.validation, seed=config.inputs.split_seed
    )
    facts = {**dataclasses.asdict(config), 'inputs': inputs.facts()}
    folder = check_workdir(workdir, facts, name='tune')
    announce(Outlook('tune', folder, as_json(facts), _stages(config, inputs, folder), mesh))
    run = Run(within, folder, mesh, options.unchecked)
    if as_process_0_sees(lambda: stored_config(folder) is None):
        strictest = max((d for _, d in config.settings), key=lambda d: d.least_accuracy)
        models = {'teacher': run.teacher}
        check_accuracy(within, models, strictest, mesh=mesh, options=options)
    open_workdir(workdir, facts, name='tune')
    return stored(folder / 'tuning.json', lambda: _tune(config, run))


def _stages(config: TuningConfig, inputs: Inputs, folder: epath.Path) -> tuple[Stage, ...]:
    shapes = {'teacher': (inputs.teacher_config, inputs.teacher_dtype)}
    length = inputs.dataset.tokens.shape[1]
    seed, *others = config.seeds
    at_home = lambda at: Places(folder).search(f'{at}-{seed}')
    first = [
        training_stage(
            f'discover: setting {at}, seed {seed}: {name}',
            discovery.optimizer.steps,
            at_home(at).training,
            *at_home(at).files,
            memory=discovery_bytes(shapes, discovery, length),
        )
        for at, (name, discovery) in enumerate(config.settings)
    ]
    if not others:
        return tuple(first)
    # Which they are is known when the others are done.
    count = 1 + min(config.finalists, len(config.settings) - 1)
    again = f'discover: the best {count} settings, with {len(others)} more seeds'
    return *first, Stage(again, None, done=(folder / 'tuning.json').exists())


def _tune(config: TuningConfig, run: Run) -> dict[str, Any]:
    rows = unseen_rows(run.inputs.split, CircuitStudyConfig(max_problems=config.problems))
    sizes = sizes_in_neurons(config.sizes, run.teacher.config.num_neurons)

    def points(at: int, seed: int) -> list[Point]:
        circuit = _search(run, at, with_seed(config.settings[at][1], seed))
        ablated = Ablated(
            run.teacher, run.inputs.dataset[rows], circuit.fill, config.ablation, run.passes
        )
        return keep_and_take_out(ablated, circuit, circuit.assignments[rows], sizes)

    first, *others = config.seeds
    everyone = range(len(config.settings))
    _work_ahead(config, run, everyone, [first])
    found = [[points(at, first)] for at in everyone]
    best = finalists([score(each[0]) for each in found], config.finalists)
    _work_ahead(config, run, best, others)
    for at in best:
        found[at] += [points(at, seed) for seed in others]
    settings = [
        {
            'name': name,
            'seeds': list(config.seeds[: len(each)]),
            'points': each,
            **summary([score(of_seed) for of_seed in each]),
        }
        for (name, _), each in zip(config.settings, found, strict=True)
    ]
    return {
        'problems': len(rows),
        'sizes': list(config.sizes),
        'settings': settings,
        'chosen': chosen(settings)['name'],
        'most_selective': most_selective(settings, config.sizes),
    }


def _work_ahead(config: TuningConfig, run: Run, settings: Iterable[int], seeds: list[int]) -> None:
    """Asks several workers for the searches of these settings and seeds that are not there yet."""
    jobs = {
        f'setting {at}, seed {seed}': functools.partial(
            _search, run, at, with_seed(config.settings[at][1], seed)
        )
        for seed in seeds
        for at in settings
        if not all(path.exists() for path in run.places.search(f'{at}-{seed}').files)
    }
    work_ahead(jobs, run.options.workers)


def _search(run: Run, at: int, discovery: DiscoveryConfig) -> Circuit:
    places = run.places.search(f'{at}-{discovery.seed}')
    found = discover_circuits(
        run,
        lambda: {'teacher': run.teacher},
        discovery,
        places.circuits,
        training=places.training,
        description=f'discover: setting {at}, seed {discovery.seed}',
    )
    return found['teacher']


def score(points: list[Point]) -> float:
    """Returns the mean over sizes of the accuracy with only the circuits."""
    return float(np.mean([point['only'] for point in points]))


def finalists(scores: list[float], count: int) -> list[int]:
    """Returns the first setting and those with the highest scores, so many of them, ascending."""
    best = np.argsort(-np.asarray(scores[1:]), kind='stable')[:count] + 1
    return sorted([0, *best.tolist()])


def summary(scores: list[float]) -> dict[str, Any]:
    """Returns the `score` of each seed, their `mean`, and its standard `error`."""
    error = None if len(scores) < 2 else float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
    return {'score': scores, 'mean': float(np.mean(scores)), 'error': error}


def chosen(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the setting that is chosen, with its `summary`.

    The best by its mean among those of the most seeds; but the first where the best is above it by
    no more than its own standard error (Breiman et al. 1984: what is simpler, within one error).
    """
    most = max(len(setting['score']) for setting in settings)
    best = max((s for s in settings if len(s['score']) == most), key=lambda s: s['mean'])
    margin = best['mean'] - settings[0]['mean']
    return settings[0] if margin <= (best['error'] or 0.0) else best


def most_selective(
    settings: list[dict[str, Any]], sizes: tuple[float, ...]
) -> dict[str, Any] | None:
    """Returns the `name` and `size` of the most selective circuits that work.

    With the `selectivity` of their specific parts in the probability of the answer, and the
    probability `only` that they keep, means over seeds, among settings and sizes at which that is
    at least a half. None where it is nowhere.
    """
    best = None
    for setting in settings:
        for at, size in enumerate(sizes):
            points = [of_seed[at] for of_seed in setting['points']]
            if any(point['selectivity_probability'] is None for point in points):
                continue
            only = float(np.mean([point['only_probability'] for point in points]))
            selective = float(np.mean([point['selectivity_probability'] for point in points]))
            if only >= 0.5 and (best is None or selective > best['selectivity']):
                best = {
                    'name': setting['name'],
                    'size': size,
                    'selectivity': selective,
                    'only': only,
                }
    return best
