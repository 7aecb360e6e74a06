"""The evaluation of a teacher's circuits, beside those of other methods at the same size."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import LEARNED
from cdjax.parallel.mesh import one_device
from cdjax.run.options import RunOptions
from cdjax.run.results import stored
from cdjax.studies.circuits import (
    CircuitStudyConfig,
    study_circuits,
    unseen_rows,
)
from cdjax.studies.discovery import discover_circuits
from cdjax.studies.ground_truth import planted_in, read_ground_truth, study_recovery
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.methods import check_methods, methods_by_default, run_methods
from cdjax.studies.run import Run
from cdjax.training.discovery import DiscoveryConfig
from cdjax.wording import count


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Which circuits are evaluated, and how.

    Attributes:
        circuits: the circuits of the teacher (.safetensors).
        inputs: the teacher, the problems and their split.
        study: the evaluation; methods that train masks are not run here.
        ground_truth: of a planted teacher, its folder or file, beside the checkpoint if empty; None
            for a teacher whose circuits are not known.
    """

    circuits: str
    inputs: InputsConfig = InputsConfig()
    study: CircuitStudyConfig = dataclasses.field(
        default_factory=lambda: CircuitStudyConfig(methods=methods_by_default(trained=False))
    )
    ground_truth: str | None = None


def evaluate_circuits(
    config: EvaluationConfig,
    *,
    mesh: Mesh | None = None,
    options: RunOptions = RunOptions(),
    announce: Callable[[str, Mapping[str, Any]], None] = lambda line, facts: None,
) -> dict[str, Any]:
    """Measures saved circuits on unseen forms, beside those of methods that train nothing.

    Args:
        config: what is measured.
        mesh: the mesh; one device if None.
        options: of passes.
        announce: is told what is going to be measured, in one line and as `config` will hold it,
            before a model is loaded.

    Returns:
        What `study_circuits` returns, and in `config` what it was measured on and how; with a
        ground truth also `ground_truth`, what `study_recovery` returns.

    Raises:
        InputError: wrong inputs, circuits or a ground truth of another model or of other problems,
            or a method that trains masks.
    """
    mesh = one_device() if mesh is None else mesh
    circuit = Circuit.load(config.circuits)
    inputs, name = Inputs(config.inputs), f'--circuits={config.circuits}'
    inputs.check_circuits(circuit, name)
    study = config.study
    study.check_sizes(inputs.teacher_config.num_neurons)
    check_methods(
        study.methods,
        inputs.dataset,
        circuit.num_classes,
        None,
        study.seed,
        inputs.teacher_config,
    )
    known = config.ground_truth is not None
    truth = read_ground_truth(config.ground_truth, inputs) if known else None
    problems = len(unseen_rows(inputs.split, study))
    facts = {
        'circuits': [config.circuits, circuit.hash],
        'inputs': inputs.facts(),
        'study': dataclasses.asdict(study),
    }
    announce(
        f'{count(circuit.num_classes, "circuit")} of {config.circuits} beside '
        f'{count(len(study.methods), "method")}, on {count(problems, "unseen problem")}',
        facts,
    )
    model = inputs.load_teacher(mesh)
    inputs.check_circuits(circuit, name, model=model)
    rankings = run_methods(
        study.methods,
        model,
        inputs.dataset,
        inputs.split.train,
        circuit,
        ablation=study.ablation,
        seed=study.seed,
        mesh=mesh,
        options=options,
    )
    passes = {'mesh': mesh, 'tokens_per_pass': options.tokens_per_pass}
    found = study_circuits(model, inputs.dataset, inputs.split, circuit, rankings, study, **passes)
    if truth is not None:
        rows = unseen_rows(inputs.split, study)
        found['ground_truth'] = study_recovery(
            truth,
            model,
            circuit,
            rankings,
            study.methods,
            inputs.dataset,
            rows,
            seed=study.seed,
            **passes,
        )
    if inputs.right is not None:
        found['only_correct'] = inputs.right
    return {'config': json.loads(json.dumps(facts)), **found}


def study_teacher(
    run: Run, discovery: DiscoveryConfig, config: CircuitStudyConfig
) -> dict[str, Any]:
    """Discovers circuits in the teacher and measures them beside those of other methods, once.

    Writes `results/circuits.json`, `circuits/teacher` and, for each method that scores neurons,
    `circuits/method_KEY`. Of a planted teacher, what each method finds of its circuits is in it.
    """
    return stored(run.places.result('circuits'), lambda: _study_teacher(run, discovery, config))


def discover_teacher(run: Run, discovery: DiscoveryConfig) -> Circuit:
    """Returns the teacher's circuits; the classes of the problems are theirs."""
    at = run.places.search_teacher()
    found = discover_circuits(
        run,
        lambda: {'teacher': run.teacher},
        discovery,
        at.circuits,
        training=at.training,
        description='discover: teacher',
    )
    return found['teacher']


def _study_teacher(run, discovery, config):
    inputs, circuit = run.inputs, discover_teacher(run, discovery)
    rankings = run_methods(
        config.methods,
        run.teacher,
        inputs.dataset,
        inputs.split.train,
        circuit,
        ablation=config.ablation,
        seed=config.seed,
        discovery=discovery,
        mesh=run.mesh,
        workdir=run.places.training('methods'),
        options=run.options,
    )
    for key, ranking in rankings.items():
        ranking.save(run.places.search_by_method(key).circuits['teacher'])
    study = study_circuits(
        run.teacher, inputs.dataset, inputs.split, circuit, rankings, config, **run.passes
    )
    truth = planted_in(run)
    if truth is not None:
        study['ground_truth'] = study_recovery(
            truth,
            run.teacher,
            circuit,
            rankings,
            config.methods,
            inputs.dataset,
            unseen_rows(inputs.split, config),
            seed=config.seed,
            **run.passes,
        )
    at = study['sizes'].index(circuit.size)
    circuit.info['metrics'] = {
        'accuracy': study['accuracy'],
        'accuracy_with_only': study['curves'][LEARNED.key][at]['only'],
        'accuracy_without': study['curves'][LEARNED.key][at]['without'],
        'selectivity': study['selectivity']['selectivity'],
    }
    circuit.save(run.places.search_teacher().circuits['teacher'])
    return study
