"""What masks and classes are worth in a teacher whose circuits nobody knows."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import LEARNED, ONE_MASK
from cdjax.evaluation.classes import answer_information
from cdjax.inference.means import neuron_means
from cdjax.run.results import stored
from cdjax.run.workers import work_ahead
from cdjax.studies.circuits import Ablated, CircuitStudyConfig, unseen_rows
from cdjax.studies.circuits.config import sizes_in_neurons
from cdjax.studies.discovery import discover_circuits
from cdjax.studies.methods import run_methods
from cdjax.studies.run import Run
from cdjax.studies.sanity import Sanity
from cdjax.studies.settle.protocol import ATTRIBUTION, UNION, ComparisonProtocol
from cdjax.studies.settle.verdicts import Hypothesis, judge_pairs
from cdjax.training.discovery import DiscoveryConfig
from cdjax.wording import exact_percent


def compare(protocol: ComparisonProtocol, run: Run) -> dict[str, Any]:
    """Compares masks and classes over seeds, sizes and ablations; all of it is kept on disk.

    Args:
        protocol: what is run.
        run: the teacher and its problems.

    Returns:
        By ablation `verdicts` (see `judge_pairs`); `curves[ARM]`, means over seeds: `accuracy` and
        the answer's `probability` with only the circuits and `dead`, the share of their neurons
        that are, by size, and `rank`, the correlation of their ranking with AtP among the living;
        and `bits[ARM]`, what its classes tell of the answer.
    """
    _work_ahead(protocol, run)
    found = {}
    for ablation, resampled in protocol.ablations:
        attribution = _attribution(protocol, run, ablation)
        seeds = [_seed(protocol, run, ablation, resampled, seed) for seed in protocol.seeds]
        found[ablation] = {
            'verdicts': _verdicts(protocol, seeds, attribution),
            'curves': _curves(seeds) | _curves([attribution]),
            'bits': {
                arm: float(np.mean([seed['bits'][arm] for seed in seeds]))
                for arm in seeds[0]['bits']
            },
        }
    return found


def _work_ahead(protocol: ComparisonProtocol, run: Run) -> None:
    """Asks several workers for all seeds and rankings that are not there yet."""
    jobs = {
        f'{ablation}-{seed}': functools.partial(_seed, protocol, run, ablation, resampled, seed)
        for ablation, resampled in protocol.ablations
        for seed in protocol.seeds
    } | {
        f'{ablation}-{ATTRIBUTION}': functools.partial(_attribution, protocol, run, ablation)
        for ablation, _ in protocol.ablations
    }
    there = lambda name: run.places.result(name).exists()
    missing = {name: job for name, job in jobs.items() if not there(name)}
    work_ahead(missing, run.options.workers)


def _seed(protocol, run, ablation, resampled, seed) -> dict[str, Any]:
    """Returns what the circuits of one seed answer, trained where they are not there yet."""
    name = f'{ablation}-{seed}'

    def measure() -> dict[str, Any]:
        learned = _discover(run, _search(protocol.discovery, resampled, seed), name)
        rankings = run_methods(
            protocol.trained,
            run.teacher,
            run.inputs.dataset,
            run.inputs.split.train,
            learned,
            ablation=ablation,
            seed=seed,
            discovery=_search(protocol.discovery, resampled, seed),
            mesh=run.mesh,
            workdir=run.places.training(name),
            options=run.options.unchecked,
        )
        arms = {LEARNED.key: learned, **rankings}
        rows, sanity = _rows(protocol, run), _sanity(protocol, run, ablation, learned.fill)
        said = _answers(protocol, run, ablation, arms, sanity)
        one = rankings[ONE_MASK.key]
        said[UNION] = _at_union(protocol, run, ablation, learned, one, sanity)
        answers = run.inputs.dataset.answer_ids[rows]
        bits = {key: answer_information(c.assignments[rows], answers) for key, c in arms.items()}
        return {'arms': said, 'bits': bits}

    return stored(run.places.result(name), measure, holds=_is_checked)


def _attribution(protocol: ComparisonProtocol, run: Run, ablation: str) -> dict[str, Any]:
    """Returns what the rankings of one mask answer, which no seed decides."""

    def measure() -> dict[str, Any]:
        dataset, train = run.inputs.dataset, run.inputs.split.train
        shape = (1, run.teacher.config.num_layers, run.teacher.config.intermediate_size)
        whole = Circuit(
            np.ones(shape, bool),
            np.ones(shape, np.float32),
            neuron_means(run.teacher, dataset[train], **run.passes),
            np.zeros(len(dataset), np.int32),
        )
        rankings = run_methods(
            protocol.attribution,
            run.teacher,
            dataset,
            train,
            whole,
            ablation=ablation,
            seed=protocol.seeds[0],
            mesh=run.mesh,
            options=run.options,
        )
        sanity = _sanity(protocol, run, ablation, whole.fill)
        return {'arms': _answers(protocol, run, ablation, rankings, sanity)}

    return stored(run.places.result(f'{ablation}-{ATTRIBUTION}'), measure, holds=_is_checked)


def _is_checked(result: Mapping[str, Any]) -> bool:
    """Whether a result has the sanity checks, which those of an earlier version lack."""
    return all('rank' in arm for arm in result['arms'].values())


def _sanity(protocol, run, ablation, fill) -> Sanity:
    config = CircuitStudyConfig(max_problems=protocol.problems, ablations=(ablation,))
    return Sanity.of(run, run.teacher, fill, config, **run.passes)


def _search(discovery: DiscoveryConfig, resampled: float, seed: int) -> DiscoveryConfig:
    objective = dataclasses.replace(discovery.objective, counterfactual=resampled)
    return dataclasses.replace(discovery, objective=objective, seed=seed)


def _discover(run: Run, search: DiscoveryConfig, name: str) -> Circuit:
    found = discover_circuits(
        run,
        lambda: {'teacher': run.teacher},
        search,
        {'teacher': run.places.circuits(name)},
        training=run.places.training(name, LEARNED.key),
        description=f'discover: {name}',
        options=run.options.unchecked,
    )
    return found['teacher']


def _rows(protocol: ComparisonProtocol, run: Run) -> np.ndarray:
    return unseen_rows(run.inputs.split, CircuitStudyConfig(max_problems=protocol.problems))


def _answers(
    protocol, run, ablation, arms: Mapping[str, Circuit], sanity: Sanity
) -> dict[str, Any]:
    """Returns what each arm answers at each size."""
    sizes = sizes_in_neurons(protocol.sizes, run.teacher.config.num_neurons)
    found = {}
    for key, circuit in arms.items():
        masks = [circuit.at_size(n).masks for n in sizes]
        said = _only(protocol, run, ablation, circuit, masks)
        found[key] = said | sanity.check(circuit, masks)
    return found


def _at_union(
    protocol, run, ablation, learned: Circuit, one: Circuit, sanity: Sanity
) -> dict[str, Any]:
    """Returns what one mask answers that has as many neurons as all circuits together."""
    sizes = sizes_in_neurons(protocol.sizes, run.teacher.config.num_neurons)
    unions = [int(learned.at_size(n).masks.any(axis=0).sum()) for n in sizes]
    masks = [one.at_size(n).masks for n in unions]
    said = _only(protocol, run, ablation, one, masks) | sanity.check(one, masks)
    return said | {'sizes': unions}


def _only(
    protocol: ComparisonProtocol,
    run: Run,
    ablation: str,
    circuit: Circuit,
    masks: list[np.ndarray],
) -> dict[str, Any]:
    """Returns, for each mask, which problems are right (a digit each), and the probability."""
    rows = _rows(protocol, run)
    ablated = Ablated(run.teacher, run.inputs.dataset[rows], circuit.fill, ablation, run.passes)
    said = ablated.only(masks, circuit.assignments[rows])
    return {
        'correct': [''.join(map(str, p.correct.astype(int))) for p in said],
        'probability': [p.mean_probability for p in said],
    }


def _correct(arm: Mapping[str, Any]) -> np.ndarray:
    """Returns what `_only` has written as digits, float `[sizes, problems]`."""
    return np.array([[float(digit) for digit in row] for row in arm['correct']])


def _curves(results: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        arm: {
            'accuracy': np.mean([_correct(r['arms'][arm]).mean(1) for r in results], 0).tolist(),
            'probability': np.mean([r['arms'][arm]['probability'] for r in results], 0).tolist(),
            'dead': np.mean([r['arms'][arm]['dead'] for r in results], 0).tolist(),
            'rank': _mean([r['arms'][arm]['rank'] for r in results]),
        }
        for arm in results[0]['arms']
    }


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def _verdicts(protocol, seeds, attribution) -> list[dict[str, Any]]:
    """Judges every claim at its sizes, by paired differences over seeds and problems."""
    rankings = np.array([_correct(arm) for arm in attribution['arms'].values()])
    # The best ranking on the very problems that are evaluated: what is claimed is claimed of all.
    best = rankings[rankings.mean(axis=2).argmax(axis=0), np.arange(len(protocol.sizes))]
    of = lambda seed, arm: best if arm == ATTRIBUTION else _correct(seed['arms'][arm])
    verdicts = []
    for claim in protocol.claims:
        if claim.arm not in seeds[0]['arms']:
            continue  # the problems lack the structure that its classes go by
        for size in claim.sizes:
            at = protocol.sizes.index(size)
            pairs = [of(seed, claim.arm)[at] - of(seed, claim.other)[at] for seed in seeds]
            hypothesis = Hypothesis(
                f'{claim.arm}-{claim.other}-{size}',
                f'{claim.text}, at {exact_percent(size)}',
                claim.bound,
            )
            verdicts.append(judge_pairs(hypothesis, np.array(pairs)))
    return verdicts
