"""The whole mission in one folder: circuits of a teacher, students, and what moved into them."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.distillation.arms import ARMS, CIRCUITS, KD
from cdjax.distillation.pairings import LAST, check_pairs
from cdjax.distillation.positions import locate
from cdjax.distillation.store import check_positions_within
from cdjax.errors import InputError
from cdjax.models import load_huggingface
from cdjax.parallel.mesh import one_device
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import as_json, check_workdir, open_workdir, stored_config
from cdjax.run.metrics import MetricsWriter
from cdjax.run.options import RunOptions
from cdjax.run.provenance import record_start
from cdjax.run.results import stored
from cdjax.run.workers import check_workers
from cdjax.studies.arms import PLANTED, ArmsConfig, rows_outside_share
from cdjax.studies.circuits import CircuitStudyConfig, smallest_faithful_share
from cdjax.studies.discovery import check_accuracy
from cdjax.studies.distillation import check_student_memory
from cdjax.studies.evaluation import discover_teacher, study_teacher
from cdjax.studies.extra import STUDIES
from cdjax.studies.ground_truth import read_ground_truth
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.layer_similarity import study_layer_similarity
from cdjax.studies.methods import check_methods
from cdjax.studies.neurons import study_neurons
from cdjax.studies.outlook import Announce, Outlook, no_announcement
from cdjax.studies.places import student_name
from cdjax.studies.problems import study_problems
from cdjax.studies.rediscovery import rediscover
from cdjax.studies.run import Run
from cdjax.studies.stages import PipelineStages
from cdjax.studies.students import Students
from cdjax.studies.study import run_study
from cdjax.training.discovery import DiscoveryConfig, check_discovery
from cdjax.training.distillation import check_distillation

TABLE = 'compare_arms'  # the launcher of a table of arms alone


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Everything that decides the results of a pipeline.

    Attributes:
        inputs: checkpoints, problems and their split.
        discovery: the search for circuits.
        study: their evaluation.
        arms: the distillation; where its `starts` are None, they are chosen here.
        layer_pairs: which layers, see `cdjax.distillation.pairings.pair_layers`.
        most_pairs: see `cdjax.distillation.pairings.Context.most`.
        rediscover: arms in whose students circuits are discovered again.
        export: the arm whose student is exported.
        studies: keys of `cdjax.studies.extra.STUDIES`, questions that are answered as well.
    """

    inputs: InputsConfig = InputsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    study: CircuitStudyConfig = CircuitStudyConfig()
    arms: ArmsConfig = ArmsConfig()
    layer_pairs: str = LAST.key
    most_pairs: int | None = None
    rediscover: tuple[str, ...] = (KD.key, CIRCUITS.key)
    export: str = CIRCUITS.key
    studies: tuple[str, ...] = ()

    def __post_init__(self):
        self._choose_starts()
        for key in self.studies:
            STUDIES[key]  # an unknown one is refused
        for name, arms in (('rediscover', self.rediscover), ('export', (self.export,))):
            absent = [arm for arm in arms if arm not in self.arms.arms]
            if absent:
                raise InputError(
                    f'{name}={absent[0]} is not among the arms that are run '
                    f'({", ".join(self.arms.arms)}): add it there, or name another'
                )
        for key in self.arms.arms:
            ARMS[key].check(self.discovery.num_classes)

    def _choose_starts(self) -> None:
        """Sets the default of the starts, and raises where the student given is none of them."""
        given, starts = self.inputs.has_student, self.arms.starts
        if starts is None:
            starts = ('checkpoint',) if given else ('nothing',)
            object.__setattr__(self, 'arms', dataclasses.replace(self.arms, starts=starts))
        if given and 'checkpoint' not in starts:
            raise InputError(
                f'starts={",".join(starts)} would not start from the student that is given '
                f'({self.inputs.student}): add checkpoint to starts, or name a preset for a '
                'student from nothing'
            )
        if 'checkpoint' in starts and not given:
            raise InputError(
                'starts=checkpoint needs the checkpoint of a student: name its folder or hub id '
                'with --student'
            )


class Pipeline:
    """The stages of one run. Each is done once, and read from disk ever after.

    Everything that can be wrong with the input is found here, before the folder is claimed; the
    teacher is loaded first where there is no such run yet, to see whether it can do the problems.

    Args:
        config: what is run.
        workdir: the folder of the run.
        mesh: the mesh; one device if None.
        name: the launcher, part of what identifies the run: 'pipeline', or 'compare_arms', which
            distils and no more.
        options: what every training writes and checks on the way.
        announce: is told what is going to be done, before a model is loaded and the folder claimed.

    Raises:
        InputError: wrong inputs (see `Inputs`), or a folder that holds another run.
    """

    def __init__(
        self,
        config: PipelineConfig,
        workdir: epath.PathLike,
        *,
        mesh: Mesh | None = None,
        name: str = 'pipeline',
        options: RunOptions = RunOptions(),
        announce: Announce = no_announcement,
    ):
        mesh = one_device() if mesh is None else mesh
        check_workers(options.workers, mesh)
        inputs = Inputs(config.inputs)
        config = _located(config, inputs)
        check_stages(config, inputs, mesh)
        facts = _facts(config, inputs, name)
        folder = check_workdir(workdir, facts, name=name)
        stages = PipelineStages(config, inputs, folder)
        stages = stages.whole() if name == 'pipeline' else stages.arms_alone()
        announce(Outlook(name, folder, as_json(facts), stages, mesh))
        self.config, self.shared = config, Run(inputs, folder, mesh, options)
        if as_process_0_sees(lambda: stored_config(folder) is None):
            models = {'teacher': self.shared.teacher}
            check_accuracy(inputs, models, config.discovery, mesh=mesh, options=options)
        folder = open_workdir(workdir, facts, name=name)
        if not as_process_0_sees((folder / 'results.json').exists):  # a finished run starts nothing
            record_start(folder)
        self.students = Students(
            self.shared, config.arms, config.discovery, config.layer_pairs, config.most_pairs
        )

    @property
    def workdir(self) -> epath.Path:
        """The folder of the run."""
        return self.shared.workdir

    def compare_arms(self) -> dict[str, Any]:
        """Distils every student that has not been yet; returns runs and tables by start."""
        return self.students.compare_arms()

    def headroom(self) -> dict[str, Any]:
        """Returns how alike the targets of the arms are inside the teacher, by start."""
        return self.students.headroom()

    def run(self) -> dict[str, Any]:
        """Runs what has not been run yet, and returns all results."""
        run, config, students = self.shared, self.config, self.students
        results = {
            'data': describe_data(run.inputs),
            'circuits': study_teacher(run, config.discovery, config.study),
        }
        results['smallest_faithful_share'] = smallest_faithful_share(results['circuits'])
        results['starts'] = self.compare_arms()
        start, seed = config.arms.starts[0], config.arms.seeds[0]
        results['rediscovery'] = {
            arm: rediscover(
                run,
                student_name(start, arm, seed),
                arm,
                students.circuits(start, seed)[0],
                config.discovery,
                config.study,
            )
            for arm in config.rediscover
        }
        circuit = discover_teacher(run, config.discovery)
        results['neurons'] = study_neurons(run, circuit, config.study)
        results['problems'] = study_problems(run, circuit, config.study)
        kept = {arm: student_name(start, arm, seed) for arm in config.arms.arms}
        results['layer_similarity'] = study_layer_similarity(run, kept, config.study)
        results['studies'] = {
            key: run_study(key, run, circuit, config.discovery, config.study)
            for key in config.studies
        }
        self._export(student_name(start, config.export, seed), start)
        _write_curves(run, results['starts'])
        return stored(run.workdir / 'results.json', lambda: results)

    def _export(self, student: str, start: str) -> None:
        """Exports a student as a Hugging Face folder, `student/`."""
        places = self.shared.places
        target = places.exported
        if not as_process_0_sees(target.exists):
            model = load_huggingface(places.student(student), mesh=self.shared.mesh)
            self.students.save(model, start, target)


def _located(config: PipelineConfig, inputs: Inputs) -> PipelineConfig:
    """Returns it with positions that are named found in the problems."""
    alignment = locate(config.arms.alignment, inputs.dataset, inputs.tokenizer)
    return dataclasses.replace(config, arms=dataclasses.replace(config.arms, alignment=alignment))


def check_stages(config: PipelineConfig, inputs: Inputs, mesh: Mesh) -> None:
    """Raises InputError for what a stage would say of its input hours later."""
    starts = config.arms.starts
    models = {'teacher': inputs.teacher_config}
    if config.rediscover or starts != ('nothing',):
        models['student'] = inputs.student_config
    check_discovery(
        models, inputs.dataset, config.discovery, mesh=mesh, batch_flag='discovery_batch_size'
    )
    config.study.check_sizes(inputs.teacher_config.num_neurons)
    check_methods(
        config.study.methods,
        inputs.dataset,
        config.discovery.num_classes,
        config.discovery,
        config.study.seed,
        inputs.teacher_config,
    )
    aligned = any(ARMS[arm].align is not None for arm in config.arms.arms)
    check_distillation(
        config.arms.distillation,
        len(inputs.split.share),
        vocab_size=inputs.teacher_config.vocab_size,
        mesh=mesh,
        alignment=config.arms.alignment if aligned else None,
    )
    for problems in config.arms.training_problems:
        fewer = len(inputs.with_share(problems).split.share)
        check_distillation(
            config.arms.with_problems(fewer).distillation,
            fewer,
            vocab_size=inputs.teacher_config.vocab_size,
            mesh=mesh,
            alignment=config.arms.alignment if aligned else None,
        )
    if config.arms.circuits == PLANTED:
        if starts != ('nothing',):
            raise InputError(
                f'circuits={PLANTED} are those of the teacher alone, and students that do part of '
                'the task have their own: set starts=nothing, or leave it out'
            )
        read_ground_truth('', inputs)
    check_student_memory(config.arms.distillation, inputs, mesh)
    check_pairs(
        config.layer_pairs,
        inputs.student_config,
        inputs.teacher_config,
        trained='nothing' not in starts,
        most=config.most_pairs,
    )
    inputs.dataset.require_single_answers('distillation')
    check_positions_within(config.arms.alignment.positions, inputs.dataset)
    if 'partial' in starts:
        rows_outside_share(inputs.split)
    for key in config.studies:
        if STUDIES[key].check is not None:
            STUDIES[key].check(inputs, config.discovery, mesh)


def describe_data(inputs: Inputs) -> dict[str, Any]:
    """Returns the sizes of the data and of its parts."""
    return {
        'problems': len(inputs.dataset),
        'forms': len(np.unique(inputs.dataset.forms)),
        'left_out': inputs.dataset.left_out,
        'train': len(inputs.split.train),
        'share': len(inputs.split.share),
        'test': len(inputs.split.test),
        'example': str(inputs.dataset.prompts[0]),
    }


def _facts(config: PipelineConfig, inputs: Inputs, name: str) -> dict[str, Any]:
    """Returns what identifies the run: no value is left open.

    A table of arms alone is made of students of their own, to which arms and seeds may be added; a
    pipeline ends with results of all of them.
    """
    facts = {**dataclasses.asdict(config), 'inputs': inputs.facts()}
    facts['arms']['distillation'] = {
        start: dataclasses.asdict(config.arms.distillation_from(start))
        for start in config.arms.starts
    }
    if name == TABLE:
        for field in ('arms', 'seeds', 'mechanism', 'training_problems'):
            del facts['arms'][field]
        del facts['export']
    return facts


def _write_curves(run: Run, starts: dict[str, Any]) -> None:
    """Writes the curves of all arms beside each other; each stage has its own metrics too."""
    if as_process_0_sees((run.workdir / 'results.json').exists):
        return
    points = sorted(
        (step, f'{start}/{result["arm"]}/seed{result["seed"]}/unseen', accuracy)
        for start, found in starts.items()
        for result in found['runs']
        for step, accuracy in result['curve']
    )
    with MetricsWriter(run.workdir) as writer:
        writer.resume_at(0)  # a kill may have left a part of them
        for step, name, accuracy in points:
            writer.write(step, {name: accuracy})
