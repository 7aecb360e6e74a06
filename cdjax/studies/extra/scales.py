"""Is the structure the same across scales? Another model, narrower and deeper, of the same task."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.evaluation.classes import agreement
from cdjax.models import Llama, LlamaConfig
from cdjax.studies.circuits import unseen_rows
from cdjax.studies.circuits.config import sizes_in_neurons
from cdjax.studies.discovery import search_in_students
from cdjax.studies.inputs import Inputs
from cdjax.studies.run import Run
from cdjax.studies.searches import (
    ablated_model,
    keep_at_sizes,
    mean_with_interval,
    search,
    with_seed,
)
from cdjax.studies.study import STUDIES, Context, Result, Section, Study, Table
from cdjax.training.discovery import DiscoveryConfig, check_discovery
from cdjax.training.language_model import LanguageModelConfig, train_language_model
from cdjax.training.optimizer import OptimizerConfig
from cdjax.wording import count, exact_percent, number, percent, sentence

TEACHER, OTHER = 'teacher', 'other'


def other_scale(config: LlamaConfig) -> LlamaConfig:
    """Returns the shape of the other model: half as wide, twice as deep."""
    return dataclasses.replace(config.half_width(), num_layers=2 * config.num_layers)


def scales(key: str = 'scales', steps: int = 4000, seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> Study:
    """Returns the study of searches in two models of one task, apart and joint.

    The other model is trained from nothing, on the forms that circuits are learned from.

    Args:
        key: of the study.
        steps: of its training.
        seeds: of each search.
    """

    def check(inputs: Inputs, discovery: DiscoveryConfig, mesh: Mesh) -> None:
        shapes = {TEACHER: inputs.teacher_config, OTHER: other_scale(inputs.teacher_config)}
        check_discovery(
            shapes, inputs.dataset, discovery, mesh=mesh, batch_flag='discovery_batch_size'
        )

    def measure(context: Context) -> Result:
        models = {TEACHER: context.run.teacher, OTHER: train_other(context, steps)}
        discovery = search_in_students(context.discovery)
        found = {name: [] for name in (TEACHER, OTHER, 'joint')}
        for seed in seeds:
            config = with_seed(discovery, seed)
            for name, model in models.items():
                circuits = search(
                    context,
                    f'{name}-{seed}',
                    config,
                    f'discover: {name} alone, seed {seed}',
                    models={name: model},
                )
                found[name].append({name: circuits[name]})
            joint = search(
                context, f'joint-{seed}', config, f'discover: joint, seed {seed}', models=models
            )
            found['joint'].append(joint)
        accuracy = {
            name: ablated_model(context, joint[name], model=model).full.accuracy
            for name, model in models.items()
        }
        return {
            'seeds': list(seeds),
            'steps': steps,
            'shares': list(context.evaluation.sizes),
            'layers': {name: model.config.num_layers for name, model in models.items()},
            'neurons': {name: model.config.num_neurons for name, model in models.items()},
            'accuracy': accuracy,
            'only': {
                f'{name}, {how}': [
                    _only(context, models[name], of_seed[name])
                    for of_seed in found['joint' if how == 'joint' else name]
                ]
                for name in models
                for how in ('alone', 'joint')
            },
            'layer_share': {
                name: np.mean([_layer_share(of[name]) for of in found[name]], axis=0).tolist()
                for name in models
            },
            'classes': _classes(context.run, found),
        }

    return Study(key, 'Whether scales agree', measure, present, check)


def train_other(context: Context, steps: int) -> Llama:
    """Returns the other model, trained where there is no checkpoint of its training's end."""
    run = context.run
    config = LanguageModelConfig(OptimizerConfig(steps), batch_size=context.discovery.batch_size)
    model, _ = train_language_model(
        other_scale(run.teacher.config),
        run.inputs.dataset[run.inputs.split.train],
        config,
        mesh=run.mesh,
        description='train the other scale',
        workdir=context.stages / 'other_scale',
        options=run.options.unchecked,
    )
    return model


def _only(context: Context, model: Llama, circuit: Circuit) -> list[float]:
    """Returns the accuracy with only the circuits at each share of this model's neurons."""
    rows = unseen_rows(context.run.inputs.split, context.evaluation)
    sizes = sizes_in_neurons(context.evaluation.sizes, model.config.num_neurons)
    kept = keep_at_sizes(ablated_model(context, circuit, model=model), circuit, rows, sizes)
    return [predictions.accuracy for predictions in kept]


def _layer_share(circuit: Circuit) -> np.ndarray:
    """Returns the part of the circuits' neurons that lies in each layer, `[L]`."""
    by_layer = circuit.masks.sum(axis=(0, 2))
    return by_layer / by_layer.sum()


def _classes(run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """Returns how far classes found apart agree, between models and between seeds of one."""
    test, labels = run.inputs.split.test, run.inputs.dataset.labels
    of = {
        name: [of_seed[name].assignments[test] for of_seed in found[name]]
        for name in (TEACHER, OTHER)
    }
    compare = lambda pairs: [agreement(a, b).ari for a, b in pairs]
    n = len(of[TEACHER])
    operators = labels.get('operators')
    return {
        'between_models': compare((a, b) for a in of[TEACHER] for b in of[OTHER]),
        'between_seeds': {
            name: compare((classes[i], classes[j]) for i in range(n) for j in range(i))
            for name, classes in of.items()
        },
        'operators': None
        if operators is None
        else {name: compare((c, operators[test]) for c in classes) for name, classes in of.items()},
    }


def present(result: Result) -> Section:
    """Returns the section of a report: sufficiency in both, layers, and agreement of classes."""
    only = {name: np.array(values) for name, values in result['only'].items()}
    rows = [
        [name, *(mean_with_interval(v, scale=100, digits=1) for v in values.T)]
        for name, values in only.items()
    ]
    kept = Table(
        'Accuracy in per cent on unseen problems with only the circuits, at shares of each '
        f'model’s own neurons, mean over {count(len(result["seeds"]), "seed")} and Student’s 95 % '
        'interval. Alone: each model has classes of its own; joint: those of the teacher’s '
        'encoding are shared.',
        ['Model', *map(exact_percent, result['shares'])],
        rows,
    )
    most = max(result['layers'].values())
    layers = Table(
        'Part of the circuits’ neurons in each layer, mean over seeds.',
        ['Model', *(f'layer {i}' for i in range(most))],
        [
            [name, *map(percent, shares), *[''] * (most - len(shares))]
            for name, shares in result['layer_share'].items()
        ],
    )
    return Section([_finding(result), _about(result)], [kept, layers])


def _about(result: Result) -> str:
    parts = [
        f'the {name} has {result["layers"][name]} layers and {result["neurons"][name]:,} neurons '
        f'and answers {percent(result["accuracy"][name])}'
        for name in (TEACHER, OTHER)
    ]
    if result['accuracy'][OTHER] < result['accuracy'][TEACHER] / 2:
        parts.append(
            'it cannot do the task, so that what its classes agree with is in the embeddings of '
            'any model, and no mechanism'
        )
    return sentence('; '.join(parts))


def _finding(result: Result) -> str:
    classes = result['classes']
    mean = lambda values: number(float(np.mean(values))) if values else None
    between = mean(classes['between_models'])
    head = f'classes found apart in the two models agree with ARI {between}'
    seeds = {name: mean(values) for name, values in classes['between_seeds'].items()}
    if None not in seeds.values():
        head += f', those of two seeds of one model with {seeds[TEACHER]} and {seeds[OTHER]}'
    if classes['operators'] is not None:
        ari = {name: mean(values) for name, values in classes['operators'].items()}
        head += f'; with the operators they agree with {ari[TEACHER]} and {ari[OTHER]}'
    return sentence(head)


STUDIES.add(scales())
