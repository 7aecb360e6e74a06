"""The whole mission in one folder: circuits of a teacher, students, and what moved into them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.pairing import parse_pairs
from cdjax.data.training_data import OUTSIDE_SHARE
from cdjax.errors import InputError
from cdjax.evaluation.selectivity import compare_matrices, selectivity, selectivity_matrix
from cdjax.inference.predictions import predict
from cdjax.models import Llama, LlamaConfig, load_huggingface, save_huggingface
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import open_workdir
from cdjax.run.metrics import MetricsWriter
from cdjax.run.options import RunOptions
from cdjax.run.results import stored
from cdjax.studies.arms import (
    ArmsConfig,
    Pairing,
    evaluated_rows,
    rows_outside_share,
    run_arm,
    summarise,
    train_head_start,
)
from cdjax.studies.circuits import (
    LOUDEST,
    OURS,
    RANDOM,
    CircuitStudyConfig,
    control_searches,
    discover_controls,
    loudest_neurons,
    smallest_faithful_share,
    study_circuits,
    unseen_rows,
)
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.training.discovery import DiscoveryConfig, check_discovery, discover
from cdjax.training.distillation import TeacherStore, check_distillation


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Everything that decides the results of a pipeline.

    Attributes:
        inputs: checkpoints, problems and their split.
        discovery: the search for circuits.
        study: their evaluation.
        arms: the distillation; where its `starts` are None, they are chosen here.
        layer_pairs: what is aligned, see `cdjax.circuits.pairing.parse_pairs`.
        rediscover: arms in whose students circuits are discovered again.
        export: the arm whose student is exported.
    """

    inputs: InputsConfig = InputsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    study: CircuitStudyConfig = CircuitStudyConfig()
    arms: ArmsConfig = ArmsConfig()
    layer_pairs: str = 'last'
    rediscover: tuple[str, ...] = ('kd', 'circuits')
    export: str = 'circuits'

    def __post_init__(self):
        self._choose_starts()
        for name, arms in (('rediscover', self.rediscover), ('export', (self.export,))):
            absent = [arm for arm in arms if arm not in self.arms.arms]
            if absent:
                raise InputError(
                    f'{name}={absent[0]} is not among the arms that are run '
                    f'({", ".join(self.arms.arms)}): add it there, or name another'
                )
        if 'wrong' in self.arms.arms and self.discovery.num_classes < 2:
            raise InputError(
                'arms=wrong compares with the circuits of other classes, and num_classes=1 has '
                'none: leave it out, or raise num_classes'
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

    Everything that can be wrong with the input is found here, before a weight is loaded.

    Args:
        config: what is run.
        workdir: the folder of the run.
        mesh: the mesh.
        name: the launcher, part of what identifies the run.
        options: what every training writes and checks on the way.

    Raises:
        InputError: wrong inputs (see `Inputs`), or a folder that holds another run.
    """

    def __init__(
        self,
        config: PipelineConfig,
        workdir: epath.PathLike,
        *,
        mesh: Mesh,
        name: str = 'pipeline',
        options: RunOptions = RunOptions(),
    ):
        self.config, self.mesh, self.options = config, mesh, options
        self.inputs = Inputs(config.inputs)
        self.dataset, self.split = self.inputs.dataset, self.inputs.split
        self._check_stages()
        self.pairs = parse_pairs(
            config.layer_pairs,
            self.inputs.student_config.num_layers,
            self.inputs.teacher_config.num_layers,
        )
        self.workdir = open_workdir(workdir, self._facts(), name=name)

    def _facts(self) -> dict[str, Any]:
        """Returns what identifies the run: no value is left open."""
        facts = {**dataclasses.asdict(self.config), 'inputs': self.inputs.facts()}
        facts['arms']['distillation'] = {
            start: dataclasses.asdict(self.config.arms.distillation_from(start))
            for start in self.config.arms.starts
        }
        return facts

    def _check_stages(self) -> None:
        """Raises what a stage would say of its input hours later."""
        config, starts = self.config, self.config.arms.starts
        models = {'teacher': self.inputs.teacher_config}
        if config.rediscover or starts != ('nothing',):
            models['student'] = self.inputs.student_config
        flag = 'discovery_batch_size'
        check_discovery(models, self.dataset, config.discovery, mesh=self.mesh, batch_flag=flag)
        control_searches(self.dataset, config.discovery, config.study)
        check_distillation(
            config.arms.distillation,
            vocab_size=self.inputs.teacher_config.vocab_size,
            mesh=self.mesh,
            aligned=config.arms.arms != ('kd',),
        )
        if 'partial' in starts:
            rows_outside_share(self.split)

    @functools.cached_property
    def teacher(self) -> Llama:
        """The teacher, loaded when a stage first needs it."""
        return self.inputs.load_teacher(self.mesh)

    def run(self) -> dict[str, Any]:
        """Runs what has not been run yet, and returns all results."""
        results = {'data': self.describe_data(), 'circuits': self.study_teacher()}
        results['smallest_faithful_share'] = smallest_faithful_share(results['circuits'])
        results['starts'] = self.compare_arms()
        start, seed = self.config.arms.starts[0], self.config.arms.seeds[0]
        results['rediscovery'] = {
            arm: self.rediscover(start, arm, seed) for arm in self.config.rediscover
        }
        self.export(start, self.config.export, seed)
        self._write_curves(results['starts'])
        return stored(self.workdir / 'results.json', lambda: results)

    def _write_curves(self, starts: dict[str, Any]) -> None:
        """Writes the curves of all arms beside each other; each stage has its own metrics too."""
        if (self.workdir / 'results.json').exists():
            return
        points = sorted(
            (step, f'{start}/{run["arm"]}/seed{run["seed"]}/unseen', accuracy)
            for start, found in starts.items()
            for run in found['runs']
            for step, accuracy in run['curve']
        )
        with MetricsWriter(self.workdir) as writer:
            writer.resume_at(0)  # a kill may have left a part of them
            for step, name, accuracy in points:
                writer.write(step, {name: accuracy})

    def compare_arms(self) -> dict[str, Any]:
        """Runs every arm from every start with every seed; returns runs and tables by start."""
        starts = {}
        for start in self.config.arms.starts:
            runs = [
                self.run_arm(start, arm, seed)
                for seed in self.config.arms.seeds
                for arm in self.config.arms.arms
            ]
            starts[start] = {
                'table': summarise(runs, self.config.arms.arms),
                'runs': runs,
                'first': self.describe_start(start),
            }
        return starts

    # -- Stage 1 --------------------------------------------------------------------------------

    def describe_data(self) -> dict[str, Any]:
        """Returns the sizes of the data and of its parts."""
        return {
            'problems': len(self.dataset),
            'forms': len(np.unique(self.dataset.forms)),
            'left_out': self.dataset.left_out,
            'train': len(self.split.train),
            'share': len(self.split.share),
            'test': len(self.split.test),
            'example': str(self.dataset.prompts[0]),
        }

    def circuits(self) -> Circuit:
        """The teacher's circuits; the classes of the problems are theirs."""
        models = lambda: {'teacher': self.teacher}
        return self._discovered('teacher', '.', models)['teacher']

    def _discovered(
        self,
        stage: str,
        folder: str,
        models: Callable[[], dict[str, Llama]],
        names: tuple[str, ...] = ('teacher',),
    ) -> dict[str, Circuit]:
        """Returns the circuits in a folder, discovered jointly in `models()` where it has none."""
        folder = self.workdir / 'circuits' / folder
        there = lambda: all((folder / f'{name}.json').exists() for name in names)
        if not as_process_0_sees(there):
            found, _ = discover(
                models(),
                self.dataset,
                self.split.train,
                self.config.discovery,
                mesh=self.mesh,
                description=f'discover: {stage}',
                workdir=self.workdir / 'stages' / 'discover' / stage,
                options=self.options,
            )
            for name, circuit in found.items():
                circuit.info.update(self.inputs.origin)
                circuit.save(folder / name)
        circuits = {name: Circuit.load(folder / name) for name in names}
        for name, circuit in circuits.items():
            self.inputs.check_circuits(circuit, str(folder / name))
        return circuits

    def study_teacher(self) -> dict[str, Any]:
        """Discovers circuits and controls in the teacher and measures them."""
        return stored(self.workdir / 'results' / 'circuits.json', self._study_teacher)

    def _study_teacher(self):
        circuit = self.circuits()
        controls = discover_controls(
            self.teacher,
            self.dataset,
            self.split,
            self.config.discovery,
            self.config.study,
            mesh=self.mesh,
            workdir=self.workdir / 'stages' / 'controls',
            options=self.options,
        )
        for name, control in controls.items():
            control.info.update(self.inputs.origin)
            control.save(self.workdir / 'circuits' / f'control_{name.replace(" ", "_")}')
        controls[LOUDEST] = loudest_neurons(
            self.teacher, self.dataset, self.split.train, circuit, mesh=self.mesh
        )
        study = study_circuits(
            self.teacher,
            self.dataset,
            self.split,
            circuit,
            controls,
            self.config.study,
            mesh=self.mesh,
        )
        at = study['sizes'].index(min(study['sizes'], key=lambda size: abs(size - circuit.size)))
        circuit.info['metrics'] = {
            'accuracy': study['accuracy'],
            'accuracy_with_only': study['curves'][OURS][at]['only'],
            'accuracy_without': study['curves'][OURS][at]['without'],
            'random_masks_with_only': study['curves'][RANDOM][at]['only'],
            'selectivity': study['selectivity']['selectivity'],
        }
        circuit.save(self.workdir / 'circuits' / 'teacher')
        return study

    # -- Stage 2 --------------------------------------------------------------------------------

    @functools.cached_property
    def store(self) -> TeacherStore:
        """What the teacher says of the share and, behind it, of the unseen problems evaluated."""
        rows = np.concatenate([self.split.share, evaluated_rows(self.split, self.config.arms)])
        distillation = self.config.arms.distillation
        return TeacherStore.build(
            self.teacher,
            self.dataset[rows],
            mesh=self.mesh,
            layers={teacher for _, teacher in self.pairs},
            top_k=distillation.top_k,
            temperature=distillation.temperature,
        )

    @functools.lru_cache(maxsize=1)  # noqa: B019 (a pipeline lives as long as its process)
    def first_student(self, start: str, seed: int) -> Llama | LlamaConfig:
        """Returns what the students of a start and a seed start from."""
        if start == 'nothing':
            return self.inputs.student_config
        if start == 'checkpoint':
            return self.inputs.load_student(self.mesh)
        return train_head_start(
            self.inputs.student_config,
            self.dataset,
            self.split,
            self.config.arms.head_start(seed),
            mesh=self.mesh,
            workdir=self.workdir / 'stages' / 'head_start' / str(seed),
            options=self.options,
        )

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def pairing(self, start: str, seed: int) -> Pairing:
        """Returns what the arms of a start align.

        A student from nothing has no circuits yet, and is aligned with all its neurons. One that
        does part of the task has its own, discovered jointly with the teacher's.
        """
        if start == 'nothing':
            return Pairing(self.pairs, self.circuits())
        # All seeds start from one checkpoint, whose circuits are searched once.
        name = 'joint_checkpoint' if start == 'checkpoint' else f'joint_{start}_{seed}'
        joint = self._discovered(
            name,
            name,
            lambda: {'teacher': self.teacher, 'student': self.first_student(start, seed)},
            names=('teacher', 'student'),
        )
        return Pairing(self.pairs, joint['teacher'], joint['student'])

    def run_arm(self, start: str, arm: str, seed: int) -> dict[str, Any]:
        """Distils one student; returns its measurements."""
        name = f'{start}-{arm}-{seed}'

        def compute():
            model, result = run_arm(
                arm,
                seed,
                self.first_student(start, seed),
                self.store,
                self.dataset,
                self.split,
                self.pairing(start, seed),
                dataclasses.replace(
                    self.config.arms, distillation=self.config.arms.distillation_from(start)
                ),
                mesh=self.mesh,
                workdir=self.workdir / 'stages' / 'distill' / name,
                description=f'distill: {arm}, seed {seed}',
                options=self.options,
            )
            if seed == self.config.arms.seeds[0]:
                self._save(model, self.workdir / 'students' / name, start)
            return result

        return stored(self.workdir / 'results' / 'arms' / f'{name}.json', compute)

    def describe_start(self, start: str) -> dict[str, Any] | None:
        """Returns what a student could do before it was distilled, None for one from nothing."""
        if start == 'nothing':
            return None

        def compute():
            problems = self.dataset[evaluated_rows(self.split, self.config.arms)]
            share = self.dataset[self.split.share[: self.config.arms.max_problems]]
            seeds = self.config.arms.seeds
            firsts = [self.first_student(start, seed) for seed in seeds]
            accuracy = lambda model, data: predict(model, data, mesh=self.mesh).accuracy
            return {
                'unseen': [accuracy(model, problems) for model in firsts],
                'share': [accuracy(model, share) for model in firsts],
            }

        return stored(self.workdir / 'results' / f'start_{start}.json', compute)

    # -- What moved -----------------------------------------------------------------------------

    def rediscover(self, start: str, arm: str, seed: int) -> dict[str, Any]:
        """Discovers circuits in a distilled student, for the teacher's classes, and compares."""
        name = f'{start}-{arm}-{seed}'
        path = self.workdir / 'results' / 'rediscovery' / f'{name}.json'
        return stored(path, lambda: self._rediscover(start, arm, seed, name))

    def _rediscover(self, start, arm, seed, name):
        student = load_huggingface(self.workdir / 'students' / name, mesh=self.mesh)
        teacher = self.pairing(start, seed).teacher
        found, _ = discover(
            {'student': student},
            self.dataset,
            self.split.train,
            self.config.discovery,
            mesh=self.mesh,
            classes=teacher.assignments,
            description=f'discover: student of {arm}',
            workdir=self.workdir / 'stages' / 'rediscover' / name,
            options=dataclasses.replace(self.options, check_gradients=False),
        )
        circuit = found['student']
        circuit.info.update(self.inputs.origin)
        circuit.save(self.workdir / 'circuits' / f'student_{name}')
        study = study_circuits(
            student,
            self.dataset,
            self.split,
            circuit,
            {},
            dataclasses.replace(self.config.study, sizes=(self.config.discovery.density,)),
            mesh=self.mesh,
            description=f'evaluate circuits: {arm}',
        )
        teacher_matrix = self._matrix(self.teacher, teacher)
        student_matrix = np.array(study['selectivity']['matrix'], float)
        correlation, chance = compare_matrices(teacher_matrix, student_matrix)
        return {
            'arm': arm,
            'study': study,
            'teacher_selectivity': selectivity(teacher_matrix),
            'correlation': correlation,
            'chance': chance,
        }

    def _matrix(self, model, circuit):
        rows = unseen_rows(self.split, self.config.study)
        ablated = functools.partial(
            predict,
            model,
            self.dataset[rows],
            mesh=self.mesh,
            fill=circuit.fill,
            ablation=self.config.study.ablation,
        )
        return selectivity_matrix(ablated, circuit.masks, circuit.assignments[rows])

    def export(self, start: str, arm: str, seed: int) -> None:
        """Exports a student as a Hugging Face folder, `student/`."""
        target = self.workdir / 'student'
        if not as_process_0_sees(target.exists):
            name = f'{start}-{arm}-{seed}'
            student = load_huggingface(self.workdir / 'students' / name, mesh=self.mesh)
            self._save(student, target, start)

    def _save(self, model: Llama, target: epath.Path, start: str) -> None:
        if as_process_0_sees(target.exists):
            return
        parts = [OUTSIDE_SHARE, 'share'] if start == 'partial' else ['share']
        save_huggingface(
            model,
            target,
            tokenizer_from=self.inputs.tokenizer_path,
            beside=self.inputs.training_data(*parts, from_student=start == 'checkpoint'),
        )
