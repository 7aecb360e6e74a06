"""Stage 1: the circuits of a model, or of several jointly, discovered once and read ever after."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.inference.predictions import predict
from cdjax.models import Llama
from cdjax.parallel.mesh import one_device
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import await_file, check_workdir, open_workdir, stored_config
from cdjax.run.options import RunOptions
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.run import Run
from cdjax.training.discovery import DiscoveryConfig, check_discovery, discover


@dataclasses.dataclass(frozen=True)
class DiscoveryStudyConfig:
    """Everything that decides the results of a study of discovery.

    Attributes:
        inputs: checkpoints, problems and their split; where a student's checkpoint is given,
            teacher and student are searched jointly.
        discovery: the search for circuits.
        first_scores: a file of circuits of the teacher, whose ranking of neurons the search starts
            from; from nothing if None.
    """

    inputs: InputsConfig = InputsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    first_scores: str | None = None


def study_discovery(
    config: DiscoveryStudyConfig,
    workdir: epath.PathLike,
    *,
    mesh: Mesh | None = None,
    options: RunOptions = RunOptions(),
) -> dict[str, Circuit]:
    """Discovers circuits and measures on unseen forms what they keep of the accuracy.

    Args:
        config: what is run.
        workdir: the folder of the run; circuits are kept in `circuits/MODEL`.
        mesh: the mesh; one device if None.
        options: what the training writes and checks on the way.

    Returns:
        `teacher` and, where there is a checkpoint of one, `student` → circuits, whose
        `info['metrics']` are `accuracy`, `accuracy_with_only` and `accuracy_without`.

    Raises:
        InputError: wrong inputs (see `Inputs`), a search that cannot work, or a folder that holds
            another run.
    """
    mesh = one_device() if mesh is None else mesh
    inputs = Inputs(config.inputs)
    shapes = {'teacher': inputs.teacher_config}
    if inputs.has_student:
        shapes['student'] = inputs.student_config
    first_scores = None
    if config.first_scores is not None:
        first = Circuit.load(config.first_scores)
        first_scores = {'teacher': first.scores}
    check_discovery(
        shapes,
        inputs.dataset,
        config.discovery,
        mesh=mesh,
        first_scores=first_scores,
        batch_flag='discovery_batch_size',
    )
    facts = {'inputs': inputs.facts(), 'discovery': config.discovery}
    if first_scores is not None:
        # Learned from problems that are unseen here they would be a leak, and of another model
        # noise; and what lies under the path may be others the next time.
        inputs.check_circuits(first, f'--first_scores={config.first_scores}')
        digest = hashlib.sha256(np.ascontiguousarray(first.scores)).hexdigest()
        facts['first_scores'] = [config.first_scores, digest[:16]]
    # A start that is refused claims nothing, for the corrected one would be another run.
    folder = check_workdir(workdir, facts, name='discover')
    new = as_process_0_sees(lambda: stored_config(folder) is None)
    models = {'teacher': inputs.load_teacher(mesh)}
    if inputs.has_student:
        models['student'] = inputs.load_student(mesh)
    if first_scores is not None:
        name = f'--first_scores={config.first_scores}'
        inputs.check_circuits(first, name, model=models['teacher'])
    if new:
        check_accuracy(inputs, models, config.discovery, mesh=mesh, options=options)
    run = Run(inputs, open_workdir(workdir, facts, name='discover'), mesh, options)
    paths = {name: run.workdir / 'circuits' / name for name in models}
    circuits = discover_circuits(
        run,
        lambda: models,
        config.discovery,
        paths,
        training=run.workdir,
        description='discover',
        first_scores=first_scores,
    )
    for name, circuit in circuits.items():
        circuit.info['metrics'] = measure_circuit(run, models[name], circuit)
        circuit.save(paths[name])
    return circuits


def check_accuracy(
    inputs: Inputs,
    models: Mapping[str, Llama],
    config: DiscoveryConfig,
    *,
    mesh: Mesh,
    options: RunOptions = RunOptions(),
) -> None:
    """Raises InputError where a model answers too few of the problems that are learned from."""
    if not config.least_accuracy:
        return
    problems = inputs.dataset[inputs.split.train]
    if inputs.right is not None:
        config.require_accuracy('teacher', inputs.right['right'] / inputs.right['of'])
    for name, model in models.items():
        passes = {'mesh': mesh, 'tokens_per_pass': options.tokens_per_pass}
        config.require_accuracy(name, predict(model, problems, **passes).accuracy)


def discover_circuits(
    run: Run,
    models: Callable[[], Mapping[str, Llama]],
    config: DiscoveryConfig,
    paths: Mapping[str, epath.Path],
    *,
    training: epath.Path,
    description: str,
    classes: np.ndarray | None = None,
    first_scores: Mapping[str, np.ndarray] | None = None,
    options: RunOptions | None = None,
) -> dict[str, Circuit]:
    """Returns the circuits at `paths`, discovered jointly where they are not all there.

    Args:
        run: the run.
        models: makes name → model, asked only if there is something to discover.
        config: the search.
        paths: name of each model → where its circuits are kept.
        training: folder of the training's checkpoints and metrics.
        description: name on the progress bar.
        classes: int `[N]`, classes that are fixed beforehand; learned if None.
        first_scores: see `discover`.
        options: those of the run if None.
    """
    there = lambda: all(path.with_suffix('.json').exists() for path in paths.values())
    if not as_process_0_sees(there):
        found, _ = discover(
            models(),
            run.inputs.dataset,
            run.inputs.split.train,
            config,
            mesh=run.mesh,
            classes=classes,
            first_scores=first_scores,
            description=description,
            workdir=training,
            options=run.options if options is None else options,
        )
        for name, circuit in found.items():
            circuit.info.update(run.inputs.origin)
            circuit.save(paths[name])
    circuits = {}
    for name, path in paths.items():
        for suffix in ('.safetensors', '.json'):
            await_file(path.with_suffix(suffix))
        circuits[name] = Circuit.load(path)
        run.inputs.check_circuits(circuits[name], str(path))
    return circuits


def search_in_students(config: DiscoveryConfig) -> DiscoveryConfig:
    """Returns the search for students of a run: what they cannot do is a result, and no mistake."""
    return dataclasses.replace(config, least_accuracy=0.0)


def measure_circuit(run: Run, model: Llama, circuit: Circuit) -> dict[str, float]:
    """Returns the accuracy on all unseen problems: whole, with only the circuits, without them."""
    rows = run.inputs.split.test
    unseen = run.inputs.dataset[rows]
    ablated = {'classes': circuit.assignments[rows], 'fill': circuit.fill, **run.passes}
    return {
        'accuracy': predict(model, unseen, **run.passes).accuracy,
        'accuracy_with_only': predict(model, unseen, masks=circuit.masks, **ablated).accuracy,
        'accuracy_without': predict(model, unseen, masks=1.0 - circuit.masks, **ablated).accuracy,
    }
