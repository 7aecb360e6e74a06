"""The evaluation of a teacher's circuits, beside controls of the same size."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.models import Llama
from cdjax.run.options import RunOptions
from cdjax.run.results import stored
from cdjax.studies.circuits import (
    LOUDEST,
    OURS,
    RANDOM,
    CircuitStudyConfig,
    discover_controls,
    loudest_neurons,
    study_circuits,
)
from cdjax.studies.discovery import discover_circuits
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.run import Run
from cdjax.training.discovery import DiscoveryConfig


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Which circuits are evaluated, and how.

    Attributes:
        circuits: the circuits of the teacher (.safetensors).
        inputs: the teacher, the problems and their split.
        study: the evaluation; its controls are not trained here.
    """

    circuits: str
    inputs: InputsConfig = InputsConfig()
    study: CircuitStudyConfig = CircuitStudyConfig()


def evaluate_circuits(
    config: EvaluationConfig, *, mesh: Mesh, options: RunOptions = RunOptions()
) -> dict[str, Any]:
    """Measures saved circuits on unseen forms, beside random masks and the loudest neurons.

    Returns:
        What `study_circuits` returns.

    Raises:
        InputError: wrong inputs, or circuits of another model or of other problems.
    """
    circuit = Circuit.load(config.circuits)
    inputs, name = Inputs(config.inputs), f'--circuits={config.circuits}'
    inputs.check_circuits(circuit, name)
    model = inputs.load_teacher(mesh)
    inputs.check_circuits(circuit, name, model=model)
    passes = {'mesh': mesh, 'tokens_per_pass': options.tokens_per_pass}
    return study_beside_loudest(inputs, model, circuit, {}, config.study, **passes)


def study_teacher(
    run: Run, discovery: DiscoveryConfig, config: CircuitStudyConfig
) -> dict[str, Any]:
    """Discovers circuits and controls in the teacher and measures them, once.

    Writes `results/circuits.json` and `circuits/teacher` and `circuits/control_NAME`.
    """
    return stored(
        run.workdir / 'results' / 'circuits.json', lambda: _study_teacher(run, discovery, config)
    )


def discover_teacher(run: Run, discovery: DiscoveryConfig) -> Circuit:
    """Returns the teacher's circuits; the classes of the problems are theirs."""
    found = discover_circuits(
        run,
        lambda: {'teacher': run.teacher},
        discovery,
        {'teacher': run.workdir / 'circuits' / 'teacher'},
        training=run.workdir / 'stages' / 'discover' / 'teacher',
        description='discover: teacher',
    )
    return found['teacher']


def _study_teacher(run, discovery, config):
    inputs, circuit = run.inputs, discover_teacher(run, discovery)
    controls = discover_controls(
        run.teacher,
        inputs.dataset,
        inputs.split,
        discovery,
        config,
        mesh=run.mesh,
        workdir=run.workdir / 'stages' / 'controls',
        options=run.options,
    )
    for name, control in controls.items():
        control.info.update(inputs.origin)
        control.save(run.workdir / 'circuits' / f'control_{name.replace(" ", "_")}')
    study = study_beside_loudest(inputs, run.teacher, circuit, controls, config, **run.passes)
    at = study['sizes'].index(min(study['sizes'], key=lambda size: abs(size - circuit.size)))
    circuit.info['metrics'] = {
        'accuracy': study['accuracy'],
        'accuracy_with_only': study['curves'][OURS][at]['only'],
        'accuracy_without': study['curves'][OURS][at]['without'],
        'random_masks_with_only': study['curves'][RANDOM][at]['only'],
        'selectivity': study['selectivity']['selectivity'],
    }
    circuit.save(run.workdir / 'circuits' / 'teacher')
    return study


def study_beside_loudest(
    inputs: Inputs,
    model: Llama,
    circuit: Circuit,
    controls: dict[str, Circuit],
    config: CircuitStudyConfig,
    **passes: Any,
) -> dict[str, Any]:
    """Returns `study_circuits`, with the neurons of the largest mean |a| among the controls."""
    loudest = loudest_neurons(model, inputs.dataset, inputs.split.train, circuit, **passes)
    return study_circuits(
        model,
        inputs.dataset,
        inputs.split,
        circuit,
        {**controls, LOUDEST: loudest},
        config,
        **passes,
    )
