"""The whole mission in one folder: circuits of a teacher, students, and what moved into them."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.distillation.arms import ARMS, CIRCUITS, KD
from cdjax.distillation.pairings import LAST
from cdjax.distillation.positions import locate
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
from cdjax.studies.arm_tables import ArmTables
from cdjax.studies.arms import ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig, smallest_faithful_share
from cdjax.studies.discovery import check_accuracy
from cdjax.studies.evaluation import discover_teacher, study_teacher
from cdjax.studies.extra import STUDIES
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.layer_similarity import study_layer_similarity
from cdjax.studies.neurons import study_neurons
from cdjax.studies.outlook import Announce, Outlook, no_announcement
from cdjax.studies.places import student_name
from cdjax.studies.problems import study_problems
from cdjax.studies.rediscovery import rediscover
from cdjax.studies.run import Run
from cdjax.studies.stage_checks import check_stages, check_teacher_store
from cdjax.studies.stages import PipelineStages
from cdjax.studies.students import Students
from cdjax.studies.study import run_study
from cdjax.training.discovery import DiscoveryConfig

TABLE = 'compare_arms'  # the launcher of a table of arms alone
# Inputs that are read where there are students.
OF_STUDENTS = ('student', 'text', 'other_tasks', 'rival')


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Everything that decides the results of a pipeline.

    Attributes:
        inputs: checkpoints, problems and their split.
        discovery: the search for circuits.
        study: their evaluation.
        arms: the distillation; where its `starts` are None, they are chosen here. Without arms
            there are no students, and what else is asked is answered of the teacher alone.
        layer_pairs: which layers, see `cdjax.distillation.pairings.pair_layers`.
        most_pairs: see `cdjax.distillation.pairings.Context.most`.
        rediscover: arms in whose students circuits are discovered again; if None, KD and the class
            circuits, as far as they are run.
        export: the arm whose student is exported; if None, the class circuits, or the first arm of
            a run without them.
        studies: keys of `cdjax.studies.extra.STUDIES`, questions that are answered as well.
    """

    inputs: InputsConfig = InputsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    study: CircuitStudyConfig = CircuitStudyConfig()
    arms: ArmsConfig = ArmsConfig()
    layer_pairs: str = LAST.key
    most_pairs: int | None = None
    rediscover: tuple[str, ...] | None = None
    export: str | None = None
    studies: tuple[str, ...] = ()

    def __post_init__(self):
        if self.arms.arms:
            self._choose_starts()
        else:
            self._refuse_students()
        for key in self.studies:
            STUDIES[key]  # an unknown one is refused
        self._choose_students()
        for key in self.arms.arms:
            ARMS[key].check(self.discovery.num_classes)

    def _refuse_students(self) -> None:
        """Raises InputError for what only students would read, where no arm makes any."""
        for name in OF_STUDENTS:
            if value := getattr(self.inputs, name):
                listed = ','.join(value) if isinstance(value, tuple) else value
                raise InputError(
                    f'{name}={listed} is about students, and no arms are run: name arms, or leave '
                    'it out'
                )
        object.__setattr__(self, 'arms', dataclasses.replace(self.arms, starts=()))

    def _choose_students(self) -> None:
        """Sets the defaults of what is done with students, and raises where arms are not run."""
        arms = self.arms.arms
        if self.rediscover is None:
            usual = tuple(arm.key for arm in (KD, CIRCUITS) if arm.key in arms)
            object.__setattr__(self, 'rediscover', usual)
        if self.export is None and arms:
            first = CIRCUITS.key if CIRCUITS.key in arms else arms[0]
            object.__setattr__(self, 'export', first)
        exported = () if self.export is None else (self.export,)
        for name, named in (('rediscover', self.rediscover), ('export', exported)):
            absent = [arm for arm in named if arm not in arms]
            if absent:
                raise InputError(
                    f'{name}={absent[0]} is not among the arms that are run '
                    f'({", ".join(arms) or "none"}): add it there, or name another'
                )

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
        if name == TABLE and not config.arms.arms:
            raise InputError(f'arms=: a table needs arms, such as {KD.key},{CIRCUITS.key}')
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
            check_teacher_store(config, inputs, self.shared.teacher)
        folder = open_workdir(workdir, facts, name=name)
        if not as_process_0_sees((folder / 'results.json').exists):  # a finished run starts nothing
            record_start(folder)
        self.students = Students(
            self.shared, config.arms, config.discovery, config.layer_pairs, config.most_pairs
        )
        self.tables = ArmTables(self.students)

    @property
    def workdir(self) -> epath.Path:
        """The folder of the run."""
        return self.shared.workdir

    def compare_arms(self) -> dict[str, Any]:
        """Distils every student that has not been yet; returns runs and tables by start."""
        return self.tables.compare_arms()

    def headroom(self) -> dict[str, Any]:
        """Returns how alike the targets of the arms are inside the teacher, see `ArmTables`."""
        return self.tables.headroom()

    def run(self) -> dict[str, Any]:
        """Runs what has not been run yet, and returns all results."""
        run, config, kept = self.shared, self.config, self.kept
        results = {
            'data': describe_data(run.inputs),
            'circuits': study_teacher(run, config.discovery, config.study),
        }
        results['smallest_faithful_share'] = smallest_faithful_share(results['circuits'])
        results['starts'] = self.compare_arms()
        results['rediscovery'] = {
            arm: rediscover(
                run,
                kept[arm],
                arm,
                self.students.circuits(config.arms.starts[0], config.arms.seeds[0])[0],
                config.discovery,
                config.study,
            )
            for arm in config.rediscover
        }
        circuit = discover_teacher(run, config.discovery)
        results['neurons'] = study_neurons(run, circuit, config.study)
        results['problems'] = study_problems(run, circuit, config.study)
        results['layer_similarity'] = study_layer_similarity(run, kept, config.study)
        results['studies'] = {
            key: run_study(key, run, circuit, config.discovery, config.study)
            for key in config.studies
        }
        if config.export is not None:
            self._export(kept[config.export], config.arms.starts[0])
        _write_curves(run, results['starts'])
        # Those of an earlier version told less of what was found again.
        holds = lambda found: all('faithful' in one for one in found['rediscovery'].values())
        return stored(run.workdir / 'results.json', lambda: results, holds=holds)

    @property
    def kept(self) -> dict[str, str]:
        """The students that are looked into, those of the first start and seed: arm → name."""
        arms = self.config.arms
        return {
            arm: student_name(start, arm, arms.seeds[0])
            for start in arms.starts[:1]
            for arm in arms.arms
        }

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
    facts = {**dataclasses.asdict(config), 'inputs': inputs.facts(), 'arms': config.arms.decided()}
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
