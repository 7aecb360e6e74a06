"""Stage 1: the circuits of a model, or of several jointly, discovered once and read ever after."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.classes import CLASSES, LEARNED, ONE, Sorting
from cdjax.circuits.methods import Context
from cdjax.circuits.methods.first_ranking import check_first_ranking, first_rankings
from cdjax.circuits.methods.learned_masks import search_for
from cdjax.errors import InputError
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.models import Llama
from cdjax.parallel.mesh import one_device
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import as_json, await_file, check_workdir, open_workdir, stored_config
from cdjax.run.options import RunOptions
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.methods import sort_in
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
from cdjax.studies.sanity import Sanity
from cdjax.training.accumulation import check_repeats
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
        classes: key of a `ClassScheme` that sorts the problems beforehand, so that no classifier
            is trained; `learned` for one. The scheme decides how many classes there are.
        classes_of: a file of circuits of these problems, whose classes are the `learned` ones of
            schemes that go by them; `learned` itself takes them as they are.
    """

    inputs: InputsConfig = InputsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    first_scores: str | None = None
    classes: str = LEARNED.key
    classes_of: str | None = None

    def __post_init__(self):
        by_circuits = CLASSES[self.classes].from_circuits
        if by_circuits and self.classes != LEARNED.key and self.classes_of is None:
            raise InputError(
                f'classes={self.classes} are drawn from those of circuits that are there already: '
                'name these with classes_of'
            )
        if self.first_scores is not None and self.discovery.first_ranking is not None:
            raise InputError(
                f'first_ranking={self.discovery.first_ranking}: masks start from first_scores='
                f'{self.first_scores} already; leave one of them out'
            )
        if self.classes_of is not None and not by_circuits:
            raise InputError(
                f'classes_of={self.classes_of}: classes={self.classes} do not go by circuits: '
                'leave one of them out'
            )


def study_discovery(
    config: DiscoveryStudyConfig,
    workdir: epath.PathLike,
    *,
    mesh: Mesh | None = None,
    options: RunOptions = RunOptions(),
    announce: Announce = no_announcement,
    insist: bool = False,
) -> dict[str, Circuit]:
    """Discovers circuits and measures on unseen forms what they keep of the accuracy.

    Args:
        config: what is run.
        workdir: the folder of the run; circuits are kept in `circuits/MODEL`.
        mesh: the mesh; one device if None.
        options: what the training writes and checks on the way.
        announce: is told what is going to be done, before a model is loaded and the folder claimed.
        insist: whether `num_classes` was asked for, such that other classes are refused even where
            it is the usual number.

    Returns:
        `teacher` and, where there is a checkpoint of one, `student` → circuits, whose
        `info['metrics']` are `accuracy`, `accuracy_with_only` and `accuracy_without`, and
        `info['sanity']` are `rank` and `dead`, see `cdjax.studies.sanity`.

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
    discovery, classes, sorted_by = config.discovery, None, None
    scheme = CLASSES[config.classes]
    if config.classes_of is not None:
        sorted_by = Circuit.load(config.classes_of)
        discovery = _search_for_those_of(sorted_by, config, insist=insist)
    elif not scheme.from_learned:
        classes = scheme.assign(Sorting(inputs.dataset, discovery.num_classes, discovery.seed))
        discovery = _search_for(config.classes, classes, discovery, insist=insist)
    check_discovery(
        shapes,
        inputs.dataset,
        discovery,
        mesh=mesh,
        first_scores=first_scores,
        batch_flag='discovery_batch_size',
    )
    check_problems(inputs, discovery)
    facts = {'inputs': inputs.facts(), 'discovery': config.discovery}
    if config.classes != LEARNED.key:
        facts['classes'] = config.classes
    if first_scores is not None:
        # Learned from problems that are unseen here they would be a leak, and of another model
        # noise; and what lies under the path may be others the next time.
        inputs.check_circuits(first, f'--first_scores={config.first_scores}')
        digest = hashlib.sha256(np.ascontiguousarray(first.scores)).hexdigest()
        facts['first_scores'] = [config.first_scores, digest[:16]]
    if sorted_by is not None:
        inputs.check_circuits(sorted_by, f'--classes_of={config.classes_of}')
        facts |= {'discovery': discovery, 'classes_of': [config.classes_of, sorted_by.hash]}
    # A start that is refused claims nothing, for the corrected one would be another run.
    folder = check_workdir(workdir, facts, name='discover')
    announce(Outlook('discover', folder, as_json(facts), _stages(discovery, inputs, folder), mesh))
    new = as_process_0_sees(lambda: stored_config(folder) is None)
    models = {'teacher': inputs.load_teacher(mesh)}
    if inputs.has_student:
        models['student'] = inputs.load_student(mesh)
    if first_scores is not None:
        name = f'--first_scores={config.first_scores}'
        inputs.check_circuits(first, name, model=models['teacher'])
    if sorted_by is not None:  # the problems that the teacher answers are known now
        inputs.check_circuits(sorted_by, f'--classes_of={config.classes_of}')
    if new:
        check_accuracy(inputs, models, config.discovery, mesh=mesh, options=options)
    run = Run(inputs, open_workdir(workdir, facts, name='discover'), mesh, options)
    paths = {name: run.places.circuits(name) for name in models}
    if sorted_by is not None:
        K, learned = sorted_by.num_classes, sorted_by.assignments
        classes = scheme.assign(Sorting(inputs.dataset, K, discovery.seed, learned))
    elif scheme.from_learned and config.classes != LEARNED.key:
        classes = _sorted_by_model(run, models['teacher'], config)
        discovery = _search_for(config.classes, classes, discovery, insist=insist)
    circuits = discover_circuits(
        run,
        lambda: models,
        discovery,
        paths,
        training=run.workdir,
        description='discover',
        classes=classes,
        first_scores=first_scores,
    )
    as_they_are = sorted_by is not None and config.classes == LEARNED.key
    sorting = sorted_by.info.get('classes', LEARNED.key) if as_they_are else config.classes
    for name, circuit in circuits.items():
        circuit.info['classes'] = sorting if circuit.num_classes > 1 else ONE.key
        circuit.info['metrics'] = measure_circuit(run, models[name], circuit)
        circuit.info['sanity'] = _sanity(run, models[name], circuit, config.discovery)
        circuit.save(paths[name])
    return circuits


def _sanity(
    run: Run, model: Llama, circuit: Circuit, discovery: DiscoveryConfig
) -> dict[str, float | None]:
    """Returns how the search ranks neurons, and how many of its circuits' are dead."""
    length = run.inputs.dataset.tokens.shape[1]
    tokens = discovery.gradient_tokens(length, model.config.num_layers)
    passes = run.passes | {'tokens_per_pass': min(tokens, run.passes['tokens_per_pass'])}
    found = Sanity.of(run, model, circuit.fill, **passes).check(circuit, [circuit.masks])
    return {'rank': found['rank'], 'dead': found['dead'][0]}


def _stages(discovery: DiscoveryConfig, inputs: Inputs, folder: epath.Path) -> tuple[Stage, ...]:
    models = {'teacher': (inputs.teacher_config, inputs.teacher_dtype)}
    if inputs.has_student:
        models['student'] = (inputs.student_config, 'float32')
    search = training_stage(
        f'discover: {" and ".join(models)}',
        discovery.optimizer.steps,
        folder,
        *(Places(folder).circuits(f'{name}.json') for name in models),
        memory=discovery_bytes(models, discovery, inputs.dataset.tokens.shape[1]),
    )
    # Asked again at each start: it takes seconds.
    return search, Stage('measure circuits on unseen forms')


def _search_for(
    key: str, classes: np.ndarray | None, discovery: DiscoveryConfig, *, insist: bool
) -> DiscoveryConfig:
    """Returns the search for as many classes as a scheme has found."""
    if classes is None:
        raise InputError(
            f'classes={key}: these problems have no such classes; choose others, or leave it out'
        )
    K = int(classes.max()) + 1
    asked = discovery.num_classes
    insist = insist or asked != DiscoveryConfig().num_classes
    if CLASSES[key].given and insist and K != asked:
        raise InputError(
            f'num_classes={asked}: classes={key} are {K} on these problems; leave num_classes out'
        )
    return search_for(K, discovery)


def _search_for_those_of(
    circuit: Circuit, config: DiscoveryStudyConfig, *, insist: bool
) -> DiscoveryConfig:
    """Returns the search for the classes of circuits that are there already."""
    K, asked = circuit.num_classes, config.discovery.num_classes
    if K == 1:
        raise InputError(
            f'classes_of={config.classes_of} is one mask for all problems, and sorts none: name '
            'circuits of several classes'
        )
    if K != asked and (insist or asked != DiscoveryConfig().num_classes):
        raise InputError(
            f'num_classes={asked}: the circuits of classes_of={config.classes_of} have {K} '
            'classes; leave num_classes out'
        )
    return search_for(K, config.discovery)


def _sorted_by_model(run: Run, teacher: Llama, config: DiscoveryStudyConfig) -> np.ndarray | None:
    """Returns the classes of a scheme that asks the teacher."""
    dataset, rows = run.inputs.dataset, run.inputs.split.train
    context = Context(
        neuron_means(teacher, dataset[rows], **run.passes),
        discovery=config.discovery,
        seed=config.discovery.seed,
        mesh=run.mesh,
        workdir=run.workdir / 'classes',
        options=run.options,
    )
    sorting = sort_in(teacher, dataset, rows, config.discovery.num_classes, context)
    return CLASSES[config.classes].assign(sorting)


def check_problems(inputs: Inputs, config: DiscoveryConfig) -> None:
    """Raises InputError for a search that these problems do not suit.

    It has a batch of more than those that are learned from, or starts from a ranking of neurons
    that they do not tell.
    """
    usual, problems = DiscoveryConfig.batch_size, len(inputs.split.train)
    check_repeats(config.batch_size, problems, usual, name='discovery_batch_size')
    shapes = [inputs.teacher_config, *([inputs.student_config] if inputs.has_student else [])]
    check_first_ranking(config, inputs.dataset, shapes)


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
    if inputs.right is not None:  # the teacher has been asked, and answers all that is left
        config.require_accuracy('teacher', inputs.right['right'] / inputs.right['of'])
        models = {name: model for name, model in models.items() if name != 'teacher'}
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
        searched, options = models(), run.options if options is None else options
        problems = run.inputs.dataset, run.inputs.split.train
        ranked = first_rankings(searched, *problems, config, mesh=run.mesh, options=options)
        found, _ = discover(
            searched,
            *problems,
            config,
            mesh=run.mesh,
            classes=classes,
            first_scores=first_scores if ranked is None else ranked,
            description=description,
            workdir=training,
            options=options,
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
