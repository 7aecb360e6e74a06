"""What moved: circuits discovered in distilled students for the teacher's classes, and compared."""

import dataclasses
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import RANDOM_MASKS
from cdjax.data import Split
from cdjax.distillation.arms import ARMS
from cdjax.evaluation.selectivity import (
    compare_matrices,
    selectivity,
    selectivity_matrix,
    specific_parts,
)
from cdjax.models import Llama, load_huggingface
from cdjax.run.results import stored
from cdjax.studies.circuits import Ablated, CircuitStudyConfig, study_circuits, unseen_rows
from cdjax.studies.discovery import discover_circuits, search_in_students
from cdjax.studies.mechanism import first_faithful, larger_sizes
from cdjax.studies.run import Run
from cdjax.training.discovery import DiscoveryConfig


def rediscover(
    run: Run,
    student: str,
    arm: str,
    teacher: Circuit,
    discovery: DiscoveryConfig,
    config: CircuitStudyConfig,
) -> dict[str, Any]:
    """Discovers circuits in a distilled student, for the teacher's classes, once, and compares.

    Circuits that do not keep what the student can do are not its mechanism. They are cut at the
    smallest size at which they do (`first_faithful`), chosen on one half of the unseen problems;
    everything is told of the other half. Where no size keeps that, they are told of at the size
    that they were searched at, and not compared.

    Args:
        run: the run.
        student: the student's name among `students/`.
        arm: the arm that it was distilled by.
        teacher: the teacher's circuits.
        discovery: the search.
        config: how circuits are measured.

    Returns:
        The study of the student's circuits (`study`), whether they are `faithful`, their `share` of
        its neurons, how selective their specific parts are and the teacher's, in the probability
        of the answer, and how the two matrices correlate beside chance; None where circuits are not
        faithful.
    """
    choose, tell = _halves(run.inputs.split, config.seed)

    def compute():
        model = load_huggingface(run.places.student(student), mesh=run.mesh)
        at = run.places.search_student(student)
        found = discover_circuits(
            run,
            lambda: {'student': model},
            search_in_students(discovery),
            at.circuits,
            training=at.training,
            description=f'discover: student of {arm}',
            classes=teacher.assignments,
            options=run.options.unchecked,
        )['student']
        faithful = _smallest_faithful(run, model, found, unseen_rows(choose, config), config)
        circuit = found if faithful is None else found.at_size(faithful)
        study = study_circuits(
            model,
            run.inputs.dataset,
            tell,
            circuit,
            {},
            dataclasses.replace(
                config,
                sizes=(circuit.share,),
                areas=False,
                methods=(RANDOM_MASKS.key,),
                ablations=config.ablations[:1],
            ),
            **run.passes,
            description=f'evaluate circuits: {arm}',
        )
        of_teacher = _matrix(run, teacher, unseen_rows(tell, config), config)
        of_student = np.array(study['selectivity']['specific_probability_matrix'], float)
        correlation, chance = compare_matrices(of_teacher, of_student)
        compared = faithful is not None
        return {
            'arm': arm,
            'title': ARMS[arm].title,
            'phrase': ARMS[arm].phrase,
            'study': study,
            'faithful': compared,
            'share': circuit.share,
            'selectivity': selectivity(of_student),
            'teacher_selectivity': selectivity(of_teacher),
            'correlation': correlation if compared else None,
            'chance': chance if compared else None,
        }

    # Those of an earlier version were cut at one size, and compared whatever they kept.
    result = run.places.result('rediscovery', student)
    return stored(result, compute, holds=lambda found: 'faithful' in found)


def _halves(split: Split, seed: int) -> tuple[Split, Split]:
    """Returns a split with one half of what is held out, and with the other."""
    shuffled = np.random.default_rng(seed).permutation(split.test)
    middle = len(shuffled) // 2
    one, other = np.sort(shuffled[:middle]), np.sort(shuffled[middle:])
    return split._replace(test=one), split._replace(test=other)


def _smallest_faithful(
    run: Run, model: Llama, circuit: Circuit, rows: np.ndarray, config: CircuitStudyConfig
) -> int | None:
    """Returns the smallest size at which circuits keep what a student can do; None if none does."""
    if not len(rows):  # one unseen problem has no half to choose on
        return None
    sizes = [circuit.size, *larger_sizes(circuit.share, model.config.num_neurons)]
    ablated = Ablated(model, run.inputs.dataset[rows], circuit.fill, config.ablation, run.passes)
    cuts = [circuit.at_size(size).masks for size in sizes]
    only = [said.correct for said in ablated.only(cuts, circuit.assignments[rows])]
    at = first_faithful(only, ablated.full.correct)
    return None if at is None else sizes[at]


def _matrix(run: Run, circuit: Circuit, rows: np.ndarray, config: CircuitStudyConfig) -> np.ndarray:
    """Returns the probability of the answer by class without each specific part of the teacher."""
    problems = run.inputs.dataset[rows]
    ablated = Ablated(run.teacher, problems, circuit.fill, config.ablation, run.passes)
    without = ablated.without_each(specific_parts(circuit.masks))
    probability = np.stack([said.probability for said in without])
    return selectivity_matrix(probability, circuit.assignments[rows])
