"""Where outputs cannot identify the mechanism: twin teachers that differ off the share alone.

Two planted teachers answer alike wherever two cues agree, and go by one of them each. Students are
distilled from either on problems on which the cues agree, so that what the two say of the share is
the same; on problems on which the cues differ, a student answers as one rule or the other would.
KD has nothing to tell the teachers apart by. What aligns the mechanism of a teacher should make its
students follow that teacher there too.

Endpoint: on unseen problems on which the cues differ, the part that a student answers by the rule
of its own teacher minus the part that it answers by the other's, mean over the twins: 0 of
whatever does not depend on whose student it is, whichever cue is easier to learn.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.data.limits import Limits
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS
from cdjax.errors import InputError
from cdjax.evaluation.statistics import (
    cluster_interval,
    few_clusters_interval,
    student_interval,
)
from cdjax.parallel.mesh import one_device
from cdjax.planted.ground_truth import GroundTruth
from cdjax.run.folder import as_json, check_workdir, open_workdir
from cdjax.run.options import RunOptions
from cdjax.run.results import stored
from cdjax.run.workers import check_workers, work_ahead
from cdjax.studies.arms import PLANTED, ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.costs import measure_beyond
from cdjax.studies.inputs import InputsConfig
from cdjax.studies.outlook import Announce, Outlook, Stage, no_announcement
from cdjax.studies.pipeline import TABLE, Pipeline, PipelineConfig
from cdjax.studies.places import Places
from cdjax.studies.settle.protocol import LOOKUP_TEACHER, protocol_hash
from cdjax.studies.settle.verdicts import Hypothesis, judge
from cdjax.studies.teacher import TeacherConfig, TeacherStudy
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Contrast:
    """That students of one arm follow their own teacher more than those of another.

    Attributes:
        arm: key of an arm.
        other: likewise.
        primary: whether the study is made for it.
    """

    arm: str
    other: str
    primary: bool = False

    @property
    def hypothesis(self) -> Hypothesis:
        """The difference of the two is above 0."""
        text = f'followed: {self.arm} minus {self.other}'
        return Hypothesis(f'{self.arm}-{self.other}', text, 0.0)


@dataclasses.dataclass(frozen=True)
class TwinsProtocol:
    """All that decides the study.

    Attributes:
        teacher: how a planted teacher is trained, of seed 0; its task is replaced.
        tasks: two tasks of the same prompts.
        label: of the problems, whose values are the planted classes.
        limits: what holds of the problems on which the tasks agree.
        teachers: seeds of pairs of teachers: of weights, batches, and the choice of neurons.
        share: part of the training forms that distillation may use, where they are within `limits`.
        arms: the students; their circuits are the planted ones.
        layer_pairs: see `cdjax.distillation.pairings.pair_layers`.
        contrasts: what is judged, fixed before the study is run.
    """

    teacher: TeacherConfig = dataclasses.field(default_factory=lambda: LOOKUP_TEACHER)
    tasks: tuple[str, str] = ('lookup_second', 'lookup_third')
    label: str = 'table'
    limits: Limits = Limits(label='cues=agree')
    teachers: tuple[int, ...] = (0, 1, 2)
    share: float = 0.5
    arms: ArmsConfig = ArmsConfig(
        DistillationConfig(OptimizerConfig(300, 2e-3, 30, 1.0), batch_size=128),
        Alignment(),
        arms=(
            'kd',
            'all',
            'circuits',
            'random_equal',
            'contributions',
            'contributions_random',
            'interchange',
            'interchange_random',
        ),
        starts=('nothing',),
        seeds=tuple(range(12)),
        evaluate_every=150,
        circuits=PLANTED,
    )
    layer_pairs: str = 'depth'
    contrasts: tuple[Contrast, ...] = (
        Contrast('circuits', 'kd', primary=True),
        Contrast('circuits', 'random_equal', primary=True),
        Contrast('contributions', 'kd'),
        Contrast('contributions', 'contributions_random'),
        Contrast('interchange', 'kd'),
        Contrast('interchange', 'interchange_random'),
        Contrast('all', 'kd'),
    )

    @property
    def tables(self) -> dict[str, tuple[int, str, str]]:
        """The tables of students: name → seed of the teachers, own task, and the rival's."""
        one, two = self.tasks
        return {
            f'{task}-{seed}': (seed, task, rival)
            for seed in self.teachers
            for task, rival in ((one, two), (two, one))
        }

    def teacher_of(self, name: str) -> TeacherConfig:
        """Returns the teacher of a table."""
        seed, task, _ = self.tables[name]
        plan = dataclasses.replace(self.teacher.plant.plan, seed=seed)
        return dataclasses.replace(
            self.teacher,
            inputs=InputsConfig(task=task, share=self.share),
            training=dataclasses.replace(self.teacher.training, seed=seed),
            plant=dataclasses.replace(self.teacher.plant, label=self.label, plan=plan),
        )

    def students_of(self, name: str, teacher: epath.Path) -> PipelineConfig:
        """Returns the students of a table, given the folder of its teacher."""
        _, task, rival = self.tables[name]
        inputs = InputsConfig(
            task, self.share, limits=self.limits, rival=rival, teacher=str(teacher)
        )
        return PipelineConfig(
            inputs,
            # Nothing is searched for.
            DiscoveryConfig(num_classes=2, least_accuracy=0.0),
            study=CircuitStudyConfig(methods=()),
            arms=self.arms,
            layer_pairs=self.layer_pairs,
            rediscover=(),
        )


def study_twins(
    protocol: TwinsProtocol,
    workdir: epath.PathLike,
    *,
    only: Sequence[str] = (),
    mesh: Mesh | None = None,
    options: RunOptions = RunOptions(),
    announce: Announce = no_announcement,
) -> dict[str, Any]:
    """Trains the twins, distils from both, and judges whose rule students follow.

    A killed study continues, and a finished one is read.

    Args:
        protocol: what is run.
        workdir: the folder of the run; teachers and tables are runs of their own in it.
        only: names of tables (`TwinsProtocol.tables`), the others are left to other processes,
            each with a folder of its own whose `tables` and `teachers` are put together at the end;
            what is judged is then what these alone can tell. All if empty.
        mesh: the mesh; one device if None.
        options: what trainings write and check on the way, and how many tables are made at once.
        announce: is told what is going to be done, before anything is claimed.

    Returns:
        See docs/artefacts.md, `twins.json`.

    Raises:
        InputError: a table that there is not, workers where one run has the whole machine, or a
            folder that holds another run.
    """
    mesh = one_device() if mesh is None else mesh
    check_workers(options.workers, mesh)
    unknown = [name for name in only if name not in protocol.tables]
    if unknown:
        raise InputError(f'only={unknown[0]}: choose from {", ".join(protocol.tables)}')
    names = [name for name in protocol.tables if not only or name in only]
    facts = {'protocol': protocol_hash(protocol), **dataclasses.asdict(protocol)}
    facts['arms'] = protocol.arms.decided()
    folder = check_workdir(workdir, facts, name='twins')
    stages = tuple(_stages(protocol, names, folder))
    announce(Outlook('twins', folder, as_json(facts), stages, mesh))
    open_workdir(workdir, facts, name='twins')
    _work_ahead(protocol, names, folder, options)
    found = {name: _table(protocol, name, folder, options, mesh) for name in names}
    return summarise_twins(protocol, found)


def _work_ahead(protocol, names, folder, options) -> None:
    """Asks several workers for all tables, each with its teacher, that are not there yet."""
    jobs = {
        name: functools.partial(_table, protocol, name, folder, options)
        for name in names
        if not Places(folder).result(name).exists()
    }
    work_ahead(jobs, options.workers)


def _stages(protocol: TwinsProtocol, names: Sequence[str], folder: epath.Path) -> Iterator[Stage]:
    students = len(protocol.arms.arms) * len(protocol.arms.seeds)
    for name in names:
        steps = protocol.teacher.training.optimizer.steps
        taught = (folder / 'teachers' / name / 'model' / 'ground_truth.json').exists()
        yield Stage(f'train teacher: {name}', steps, done=taught)
        steps = students * protocol.arms.distillation.optimizer.steps
        done = Places(folder).result(name).exists()
        yield Stage(f'distil students: {name}', steps, done=done)


def _table(protocol, name, folder, options, mesh=None) -> dict[str, Any]:
    """Returns what the students of one teacher answer, and the teacher itself.

    It is computed on one device if there is no mesh.
    """
    mesh = one_device() if mesh is None else mesh

    def compute():
        home = folder / 'teachers' / name
        if not (home / 'model' / 'ground_truth.json').exists():
            TeacherStudy(protocol.teacher_of(name), home, mesh=mesh, options=options).run()
        config = protocol.students_of(name, home / 'model')
        pipeline = Pipeline(
            config, folder / 'tables' / name, mesh=mesh, name=TABLE, options=options
        )
        shared, truth = pipeline.shared, GroundTruth.load(home / 'model')
        inputs = shared.inputs
        teacher = measure_beyond(shared.teacher, inputs, len(inputs.beyond), **shared.passes)
        runs = pipeline.compare_arms()[config.arms.starts[0]]['runs']
        fields = ('arm', 'seed', 'unseen', 'beyond', 'rival')
        return {
            'share': len(inputs.split.share),
            'teacher': teacher,
            'necessary': truth.necessary.sum(axis=2).tolist(),
            'runs': [{field: run[field] for field in fields} for run in runs],
        }

    return stored(Places(folder).result(name), compute)


def summarise_twins(
    protocol: TwinsProtocol, tables: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns whose rule the students of each arm follow, and the verdicts.

    Args:
        protocol: what was run.
        tables: results by the name of the table; teachers of which one twin is missing are left
            out.

    Returns:
        `protocol`, its hash; `teachers`, those of which both twins are there; `tables`; `arms[]`:
        `arm`, `title`, the mean accuracy `unseen` within the limits, of both twins' students how
        often they answer by their `own` rule and by the `rival`, the `followed` difference with its
        `interval`, `t_interval` and `by_teacher[]`; and `verdicts[]` of the contrasts, see
        `cdjax.studies.settle.verdicts`, with `t_interval` and `primary`. Intervals are bootstraps
        of teachers and of students within them; with one teacher Student's t over students. The
        `t_interval` is Student's over the means of teachers: None of one, and of many.
    """
    pairs = {}
    for name, table in tables.items():
        pairs.setdefault(protocol.tables[name][0], []).append(table['runs'])
    pairs = {seed: both for seed, both in pairs.items() if len(both) == len(protocol.tasks)}
    followed = {
        arm: [_followed(both, arm) for both in pairs.values()] for arm in protocol.arms.arms
    }
    arms = []
    for arm, groups in followed.items():
        runs = [run for both in pairs.values() for one in both for run in one if run['arm'] == arm]
        mean = lambda field, runs=runs: float(np.mean([run[field] for run in runs]))
        arms.append(
            {
                'arm': arm,
                'title': ARMS[arm].title,
                'unseen': mean('unseen'),
                'own': mean('beyond'),
                'rival': mean('rival'),
                **_told(groups),
            }
            if runs
            else {'arm': arm, 'title': ARMS[arm].title}
        )
    verdicts = []
    for contrast in protocol.contrasts:
        gaps = [
            np.subtract(one, other)
            for one, other in zip(followed[contrast.arm], followed[contrast.other], strict=True)
        ]
        told = _told(gaps) if gaps else dict.fromkeys(('followed', 'interval', 't_interval'))
        verdict = judge(contrast.hypothesis, told['followed'], told['interval'])
        told = {'t_interval': told['t_interval'], 'primary': contrast.primary}
        verdicts.append({**verdict, **told})
    return {
        'protocol': protocol_hash(protocol),
        'teachers': list(pairs),
        'tables': dict(tables),
        'arms': arms,
        'verdicts': verdicts,
    }


def _followed(twins: Sequence[Sequence[Mapping[str, Any]]], arm: str) -> np.ndarray:
    """Returns own minus rival of the students of an arm by seed, mean over the twins."""
    by_seed = [
        {run['seed']: run['beyond'] - run['rival'] for run in runs if run['arm'] == arm}
        for runs in twins
    ]
    seeds = sorted(set(by_seed[0]).intersection(*by_seed[1:]))
    return np.array([np.mean([one[seed] for one in by_seed]) for seed in seeds])


def _told(groups: Sequence[np.ndarray]) -> dict[str, Any]:
    interval = student_interval(groups[0]) if len(groups) == 1 else cluster_interval(groups)
    means = [float(group.mean()) for group in groups]
    return {
        'followed': float(np.mean(means)),
        'interval': interval,
        't_interval': few_clusters_interval(means),
        'by_teacher': means,
    }
