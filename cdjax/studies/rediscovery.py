"""What moved: circuits discovered in distilled students for the teacher's classes, and compared."""

import dataclasses
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import RANDOM_MASKS
from cdjax.distillation.arms import ARMS
from cdjax.evaluation.selectivity import compare_matrices, selectivity, selectivity_matrix
from cdjax.models import Llama, load_huggingface
from cdjax.run.results import stored
from cdjax.studies.circuits import Ablated, CircuitStudyConfig, study_circuits, unseen_rows
from cdjax.studies.discovery import discover_circuits, search_in_students
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

    Args:
        run: the run.
        student: the student's name among `students/`.
        arm: the arm that it was distilled by.
        teacher: the teacher's circuits.
        discovery: the search.
        config: how circuits are measured.

    Returns:
        The study of the student's circuits, and how its selectivity matrix correlates with the
        teacher's beside chance.
    """

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
        )
        study = study_circuits(
            model,
            run.inputs.dataset,
            run.inputs.split,
            found['student'],
            {},
            dataclasses.replace(
                config,
                sizes=(discovery.objective.density,),
                areas=False,
                methods=(RANDOM_MASKS.key,),
                ablations=config.ablations[:1],
            ),
            **run.passes,
            description=f'evaluate circuits: {arm}',
        )
        of_teacher = _matrix(run, run.teacher, teacher, config)
        of_student = np.array(study['selectivity']['matrix'], float)
        correlation, chance = compare_matrices(of_teacher, of_student)
        return {
            'arm': arm,
            'title': ARMS[arm].title,
            'phrase': ARMS[arm].phrase,
            'study': study,
            'teacher_selectivity': selectivity(of_teacher),
            'correlation': correlation,
            'chance': chance,
        }

    return stored(run.places.result('rediscovery', student), compute)


def _matrix(run: Run, model: Llama, circuit: Circuit, config: CircuitStudyConfig) -> np.ndarray:
    rows = unseen_rows(run.inputs.split, config)
    ablated = Ablated(model, run.inputs.dataset[rows], circuit.fill, config.ablation, run.passes)
    correct = np.stack([p.correct for p in ablated.without_each(circuit.masks)])
    return selectivity_matrix(correct, circuit.assignments[rows])
