"""Do three operands take what two take? One model of both tasks, and the circuits of each."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.data import ArithmeticTask, Dataset
from cdjax.data.encoding import padding_id
from cdjax.data.token_rows import TokenRows
from cdjax.errors import InputError
from cdjax.evaluation.matching import chance_of_matching, matched_overlap
from cdjax.models import Llama
from cdjax.studies.circuits import learned_rows
from cdjax.studies.circuits.living import find_living
from cdjax.studies.inputs import Inputs
from cdjax.studies.run import Run
from cdjax.studies.searches import (
    ablated_model,
    mean_with_interval,
    search,
    study_sizes,
    with_seed,
)
from cdjax.studies.study import STUDIES, Context, Result, Section, Study, Table
from cdjax.training.discovery import DiscoveryConfig, check_discovery
from cdjax.training.language_model import FROM_NOTHING, LanguageModelConfig, train_language_model
from cdjax.training.optimizer import OptimizerConfig
from cdjax.wording import count, exact_percent, number, percent, sentence

TASKS = ('three', 'two')
# Part of the problems of a step that have two operands: there are few, and they come again.
PART_OF_TWO = 0.25


def operands(
    key: str = 'operands', steps: int = 1500, seeds: Sequence[int] = (0, 1, 2, 3, 4)
) -> Study:
    """Returns the study of one mask for each of two tasks in a model that can do both.

    The teacher goes on training, on its own problems and those of two operands, on the training
    forms of both. Masks are for one class, so that overlap needs no matching.

    Args:
        key: of the study.
        steps: of that training.
        seeds: of each search.
    """

    def check(inputs: Inputs, discovery: DiscoveryConfig, mesh: Mesh) -> None:
        task = inputs.config.task
        if not isinstance(task, ArithmeticTask) or task.operands != 3:
            raise InputError(
                f'studies={key} compares three operands with two: give it problems of three '
                '(operands=3), or leave it out'
            )
        if isinstance(inputs.dataset.tokens, TokenRows):
            raise InputError(
                f'studies={key} trains on problems of two tasks at once, which need one prefix '
                'and one length each: leave out shots, prompt_prefix, several_lengths, or the study'
            )
        for each in (inputs, two_operands(inputs)):
            check_discovery(
                {'teacher': inputs.teacher_config},
                each.dataset,
                one_class(discovery, seeds[0]),
                mesh=mesh,
                batch_flag='discovery_batch_size',
            )

    def measure(context: Context) -> Result:
        runs = {'three': context.run}
        inputs = two_operands(context.run.inputs)
        runs['two'] = dataclasses.replace(context.run, inputs=inputs)
        model = _train(context, runs, steps)
        found = {
            task: [
                search(
                    context,
                    f'{task}-{seed}',
                    one_class(context.discovery, seed),
                    f'discover: {task} operands, seed {seed}',
                    run=run,
                    models={'teacher': model},
                )['teacher']
                for seed in seeds
            ]
            for task, run in runs.items()
        }
        return {
            'seeds': list(seeds),
            'steps': steps,
            'problems': {task: len(run.inputs.dataset) for task, run in runs.items()},
            **_measure(context, runs, model, found),
        }

    return Study(key, 'Three operands and two', measure, present, check)


def two_operands(inputs: Inputs) -> Inputs:
    """Returns the same inputs with problems of two operands in the same range."""
    task = dataclasses.replace(inputs.config.task, operands=2)
    return Inputs(dataclasses.replace(inputs.config, task=task))


def one_class(discovery: DiscoveryConfig, seed: int) -> DiscoveryConfig:
    """Returns the search for one mask."""
    objective = discovery.objective.suited_to(1)
    return with_seed(dataclasses.replace(discovery, objective=objective, num_classes=1), seed)


def _train(context: Context, runs: dict[str, Run], steps: int) -> Llama:
    run = context.run
    model, _ = train_language_model(
        run.teacher,
        mixed(*(runs[task].inputs for task in TASKS)),
        LanguageModelConfig(
            OptimizerConfig(steps, 1e-3).or_else(FROM_NOTHING),
            batch_size=context.discovery.batch_size,
        ),
        mesh=run.mesh,
        description='train on two operands as well',
        workdir=context.stages / 'both',
        options=run.options.unchecked,
    )
    return model


def mixed(three: Inputs, two: Inputs) -> Dataset:
    """Returns training problems of both, those of two operands `PART_OF_TWO` of all."""
    rows = three.split.train
    again = round(len(rows) * PART_OF_TWO / (1 - PART_OF_TWO))
    first, second = three.dataset[rows], two.dataset[np.resize(two.split.train, again)]
    width = first.tokens.shape[1]

    def padded(tokens):
        wide = np.full((len(tokens), width), padding_id(three.tokenizer), tokens.dtype)
        wide[:, : tokens.shape[1]] = tokens
        return wide

    columns = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in dataclasses.fields(Dataset)
        if field.name not in ('labels', 'label_names', 'left_out')
        and not field.name.endswith('tokens')
    }
    for name in ('tokens', 'counterfactual_tokens'):
        columns[name] = np.concatenate([getattr(first, name), padded(getattr(second, name))])
    return Dataset(**columns, labels={}, label_names={}, left_out={})


def _measure(
    context: Context, runs: dict[str, Run], model: Llama, found: dict[str, list[Circuit]]
) -> dict:
    """Returns what circuits keep of their own task and of the other, and how far they overlap."""
    sizes = study_sizes(context, model.config.num_neurons)
    ablated = {
        task: ablated_model(context, found[task][0], run=run, model=model)
        for task, run in runs.items()
    }
    living = np.zeros((model.config.num_layers, model.config.intermediate_size), bool)
    for task, run in runs.items():
        learned = run.inputs.dataset[learned_rows(run.inputs.split, context.evaluation)]
        living |= find_living(model, learned, found[task][0].fill, **run.passes)

    def keep(circuit: Circuit, task: str) -> list[float]:
        masks = [circuit.at_size(size).masks for size in sizes]
        everyone = np.zeros(len(ablated[task].problems), np.int32)
        return [p.mean_probability for p in ablated[task].only(masks, everyone)]

    cut = lambda task, i, size: found[task][i].at_size(size).masks
    pairs = range(len(found['three']))
    return {
        'shares': [size / model.config.num_neurons for size in sizes],
        'accuracy': {task: each.full.accuracy for task, each in ablated.items()},
        'probability': {task: each.full.mean_probability for task, each in ablated.items()},
        'living': int(living.sum()),
        # Probability of the answer, [circuits of][problems of][seed][size].
        'kept': {
            of: {task: [keep(circuit, task) for circuit in found[of]] for task in TASKS}
            for of in TASKS
        },
        # Of the masks of one seed, [seed][size].
        'overlap': [
            [matched_overlap(cut('three', i, n), cut('two', i, n), living) for n in sizes]
            for i in pairs
        ],
        'chance_overlap': [
            [chance_of_matching(cut('three', i, n), cut('two', i, n), living) for n in sizes]
            for i in pairs
        ],
    }


def present(result: Result) -> Section:
    """Returns the section of a report: what circuits keep of either task, and their overlap."""
    shares = [*map(exact_percent, result['shares'])]
    of_seeds = lambda values, **how: [mean_with_interval(v, **how) for v in np.array(values).T]
    kept = Table(
        'Probability of the answer in per cent on unseen problems of either task with only the '
        f'mask of one of them, mean over {count(len(result["seeds"]), "seed")} and Student’s '
        '95 % interval.',
        ['Mask and problems', *shares],
        [
            [f'mask of {of} operands, problems of {task}', *of_seeds(values, scale=100, digits=1)]
            for of, by_task in result['kept'].items()
            for task, values in by_task.items()
        ],
    )
    overlap = Table(
        'Intersection over union of the masks of both tasks among living neurons.',
        ['Overlap', *shares],
        [
            ['found', *of_seeds(result['overlap'])],
            ['random living neurons', *of_seeds(result['chance_overlap'])],
        ],
    )
    return Section([_finding(result), _about(result)], [kept, overlap])


def _about(result: Result) -> str:
    tasks = (
        f'{percent(result["accuracy"][task])} of unseen problems of {task} operands '
        f'({result["problems"][task]:,} problems in all)'
        for task in TASKS
    )
    return sentence(
        f'after {count(result["steps"], "step")} on both, the model answers {" and ".join(tasks)}'
    )


def _finding(result: Result) -> str:
    """Says at the size where the masks of two operands matter most what each mask keeps."""
    mean = {
        (of, task): np.mean(values, axis=0)
        for of, by_task in result['kept'].items()
        for task, values in by_task.items()
    }
    gap = mean['two', 'two'] - mean['three', 'two']
    at = int(np.argmax(np.abs(gap)))
    tell = lambda of, task: percent(float(mean[of, task][at]))
    overlap, chance = (np.mean(result[name], axis=0)[at] for name in ('overlap', 'chance_overlap'))
    return sentence(
        f'the masks differ most on problems of two operands at '
        f'{exact_percent(result["shares"][at])} of the neurons, where that of two operands keeps a '
        f'probability of {tell("two", "two")} and that of three {tell("three", "two")} (on '
        f'problems of three {tell("two", "three")} and {tell("three", "three")}); they overlap by '
        f'{number(float(overlap))} against {number(float(chance))} by chance'
    )


STUDIES.add(operands())
