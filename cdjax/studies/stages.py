"""The stages of a pipeline in their order, as its configuration and its folder tell them."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from etils import epath

from cdjax.circuits.classes import CLASSES, Sorting
from cdjax.circuits.methods import LEARNED, METHODS
from cdjax.studies.arms import PLANTED
from cdjax.studies.extra import STUDIES
from cdjax.studies.inputs import Inputs
from cdjax.studies.outlook import (
    Stage,
    discovery_bytes,
    model_bytes,
    passes_stage,
    training_bytes,
    training_stage,
)

if TYPE_CHECKING:
    from cdjax.studies.pipeline import PipelineConfig


@dataclasses.dataclass(frozen=True, eq=False)
class PipelineStages:
    """What a pipeline does, and what of it is done.

    Attributes:
        config: what is run.
        inputs: checkpoints and problems.
        folder: of the run; it need not be there.
    """

    config: 'PipelineConfig'
    inputs: Inputs
    folder: epath.Path

    def arms_alone(self) -> tuple[Stage, ...]:
        """Returns the stages of `Pipeline.compare_arms`."""
        search = () if self.config.arms.circuits == PLANTED else (self._discover_teacher(),)
        return (*search, *self._arms())

    def whole(self) -> tuple[Stage, ...]:
        """Returns the stages of `Pipeline.run`."""
        return (
            self._discover_teacher(),
            *self._methods(),
            passes_stage('measure circuits', self._result('circuits')),
            *self._arms(),
            *self._rediscoveries(),
            passes_stage('look into neurons', self._result('neurons')),
            passes_stage('look into classes', self._result('problems')),
            passes_stage('compare layers', self._result('layer_similarity')),
            *(
                passes_stage(
                    f'study: {STUDIES[key].title}', self._result(f'studies/{key}'), steps=None
                )
                for key in self.config.studies
            ),
            passes_stage('export the student', self.folder / 'student'),
        )

    def _result(self, name: str) -> epath.Path:
        return self.folder / 'results' / f'{name}.json'

    def _discover_teacher(self) -> Stage:
        # Without a student from nothing or a study, the teacher's circuits are found jointly.
        return self._search('discover: teacher', 'discover/teacher', 'teacher')

    def _search(self, name: str, training: str, *circuits: str) -> Stage:
        """Returns a search in the teacher, or in the models of as many circuits."""
        shapes = {'teacher': (self.inputs.teacher_config, self.inputs.teacher_dtype)}
        if len(circuits) > 1:
            shapes['student'] = (self.inputs.student_config, 'float32')
        return training_stage(
            name,
            self.config.discovery.optimizer.steps,
            self.folder / 'stages' / training,
            *(self.folder / 'circuits' / f'{circuit}.json' for circuit in circuits),
            memory=discovery_bytes(
                shapes, self.config.discovery, self.inputs.dataset.tokens.shape[1]
            ),
        )

    def _methods(self) -> Iterator[Stage]:
        config = self.config
        sorting = Sorting(self.inputs.dataset, config.discovery.num_classes, config.study.seed)
        for key in config.study.methods:
            method = METHODS[key]
            if not method.trains or key == LEARNED.key:
                continue
            if not CLASSES[method.classes].from_learned and method.sort(sorting) is None:
                continue  # the problems lack the structure that its classes go by
            yield self._search(f'learn masks: {key}', f'methods/{key}', f'method_{key}')

    def _arms(self) -> Iterator[Stage]:
        for start in self.config.arms.starts:
            yield from self._joint_searches(start)
        for start in self.config.arms.starts:
            distillation = self.config.arms.distillation_from(start)
            memory = self._beside_teacher(distillation)
            yield from self._distillations(start, distillation.optimizer.steps, memory)
            for problems in self.config.arms.training_problems:
                yield from self._distillations(
                    start, distillation.optimizer.steps, memory, problems
                )

    def _distillations(
        self, start: str, steps: int, memory: int, problems: int | None = None
    ) -> Iterator[Stage]:
        """Yields those of all arms and seeds from a start, with fewer problems if so asked."""
        folder = self.folder if problems is None else self.folder / 'problems' / str(problems)
        with_fewer = '' if problems is None else f', {problems} problems'
        for seed in self.config.arms.seeds:
            for arm in self.config.arms.arms:
                name = f'{start}-{arm}-{seed}'
                yield training_stage(
                    f'distill: {arm}, from {start}, seed {seed}{with_fewer}',
                    steps,
                    folder / 'stages' / 'distill' / name,
                    folder / 'results' / 'arms' / f'{name}.json',
                    memory=memory,
                )

    def _joint_searches(self, start: str) -> Iterator[Stage]:
        """Yields what makes students that are no longer from nothing, and finds their circuits."""
        if start == 'checkpoint':
            name = 'joint_checkpoint'
            pair = (f'{name}/teacher', f'{name}/student')
            yield self._search('discover: teacher and student', f'discover/{name}', *pair)
        if start != 'partial':
            return
        for seed in self.config.arms.seeds:
            training = self.config.arms.head_start(seed)
            yield training_stage(
                f'head start, seed {seed}',
                training.optimizer.steps,
                self.folder / 'stages' / 'head_start' / str(seed),
                memory=self._beside_teacher(training),
            )
            name = f'joint_partial_{seed}'
            pair = (f'{name}/teacher', f'{name}/student')
            yield self._search(
                f'discover: teacher and student, seed {seed}', f'discover/{name}', *pair
            )

    def _rediscoveries(self) -> Iterator[Stage]:
        start, seed = self.config.arms.starts[0], self.config.arms.seeds[0]
        for arm in self.config.rediscover:
            name = f'{start}-{arm}-{seed}'
            stage = self._search(
                f'discover: student of {arm}', f'rediscover/{name}', f'student_{name}'
            )
            done = self._result(f'rediscovery/{name}').exists()
            yield dataclasses.replace(stage, done=done)

    def _beside_teacher(self, training) -> int:
        """Returns the bytes of a training of a student while the teacher stays loaded."""
        inputs = self.inputs
        length = inputs.dataset.tokens.shape[1]
        teacher = model_bytes(inputs.teacher_config, inputs.teacher_dtype)
        return teacher + training_bytes(inputs.student_config, training, length)
