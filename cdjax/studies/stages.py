"""The stages of a pipeline in their order, as its configuration and its folder tell them."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from etils import epath

from cdjax.circuits.methods import LEARNED, METHODS
from cdjax.distillation.arms import ARMS
from cdjax.studies.arms import PLANTED
from cdjax.studies.extra import STUDIES
from cdjax.studies.inputs import Inputs
from cdjax.studies.methods import with_classes
from cdjax.studies.outlook import (
    Stage,
    discovery_bytes,
    model_bytes,
    passes_stage,
    training_bytes,
    training_stage,
)
from cdjax.studies.places import Places, Search, student_name, weighed_name
from cdjax.studies.weights import students_tried
from cdjax.training.distillation import DistillationConfig

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
            passes_stage('measure circuits', self.places.result('circuits')),
            *self._arms(),
            *self._rediscoveries(),
            passes_stage('look into neurons', self.places.result('neurons')),
            passes_stage('look into classes', self.places.result('problems')),
            passes_stage('compare layers', self.places.result('layer_similarity')),
            *(
                passes_stage(
                    f'study: {STUDIES[key].title}', self.places.result('studies', key), steps=None
                )
                for key in self.config.studies
            ),
            *self._export(),
        )

    @property
    def places(self) -> Places:
        """Where the run keeps what it makes."""
        return Places(self.folder)

    def _discover_teacher(self) -> Stage:
        # Without a student from nothing or a study, the teacher's circuits are found jointly.
        return self._search('discover: teacher', self.places.search_teacher())

    def _search(self, name: str, search: Search) -> Stage:
        """Returns a search in the teacher, or in the models of as many circuits."""
        shapes = {'teacher': (self.inputs.teacher_config, self.inputs.teacher_dtype)}
        if len(search.circuits) > 1:
            shapes['student'] = (self.inputs.student_config, 'float32')
        return training_stage(
            name,
            self.config.discovery.optimizer.steps,
            search.training,
            *search.files,
            memory=discovery_bytes(
                shapes, self.config.discovery, self.inputs.dataset.tokens.shape[1]
            ),
        )

    def _methods(self) -> Iterator[Stage]:
        config = self.config
        K, seed = config.discovery.num_classes, config.study.seed
        for key in with_classes(config.study.methods, self.inputs.dataset, K, seed):
            if METHODS[key].trains and key != LEARNED.key:
                yield self._search(f'learn masks: {key}', self.places.search_by_method(key))

    def _arms(self) -> Iterator[Stage]:
        for start in self.config.arms.starts:
            yield from self._joint_searches(start)
        for start in self.config.arms.starts:
            distillation = self.config.arms.distillation_from(start)
            yield from self._choices_of_weights(start, distillation)
            yield from self._distillations(start, distillation)
            for problems in self.config.arms.training_problems:
                yield from self._distillations(start, distillation, problems)

    def _choices_of_weights(self, start: str, distillation: DistillationConfig) -> Iterator[Stage]:
        """Yields the distillations by which the weight of each arm is chosen, if it is."""
        arms = self.config.arms
        if arms.weight_grid is None:
            return
        memory = self._distillation_memory(distillation)
        for arm, weight, seed in students_tried(arms):
            name = weighed_name(start, arm, weight, seed)
            yield training_stage(
                f'choose weight: {arm}, {weight:g}, from {start}, seed {seed}',
                distillation.optimizer.steps,
                self.places.weighing(name),
                self.places.result('weights', name),
                memory=memory[ARMS[arm].interchanges(arms.alignment)],
            )

    def _distillation_memory(self, distillation: DistillationConfig) -> dict[bool, int]:
        """Returns the bytes of a distillation, by whether it patches circuits."""
        return {
            patched: self._beside_teacher(distillation, patched=patched)
            for patched in (False, True)
        }

    def _distillations(
        self, start: str, distillation: DistillationConfig, problems: int | None = None
    ) -> Iterator[Stage]:
        """Yields those of all arms and seeds from a start, with fewer problems if so asked."""
        memory = self._distillation_memory(distillation)
        places = self.places if problems is None else self.places.with_problems(problems)
        with_fewer = '' if problems is None else f', {problems} problems'
        for seed in self.config.arms.seeds:
            for arm in self.config.arms.arms:
                name = student_name(start, arm, seed)
                yield training_stage(
                    f'distill: {arm}, from {start}, seed {seed}{with_fewer}',
                    distillation.optimizer.steps,
                    places.distillation(name),
                    places.result('arms', name),
                    memory=memory[ARMS[arm].interchanges(self.config.arms.alignment)],
                )

    def _joint_searches(self, start: str) -> Iterator[Stage]:
        """Yields what makes students that are no longer from nothing, and finds their circuits."""
        if start == 'checkpoint':
            search = self.places.search_jointly(start, self.config.arms.seeds[0])
            yield self._search('discover: teacher and student', search)
        if start != 'partial':
            return
        for seed in self.config.arms.seeds:
            training = self.config.arms.head_start(seed)
            yield training_stage(
                f'head start, seed {seed}',
                training.optimizer.steps,
                self.places.head_start(seed),
                memory=self._beside_teacher(training),
            )
            search = self.places.search_jointly(start, seed)
            yield self._search(f'discover: teacher and student, seed {seed}', search)

    def _rediscoveries(self) -> Iterator[Stage]:
        for arm in self.config.rediscover:
            name = student_name(self.config.arms.starts[0], arm, self.config.arms.seeds[0])
            stage = self._search(f'discover: student of {arm}', self.places.search_student(name))
            done = self.places.result('rediscovery', name).exists()
            yield dataclasses.replace(stage, done=done)

    def _export(self) -> Iterator[Stage]:
        if self.config.export is not None:
            yield passes_stage('export the student', self.places.exported)

    def _beside_teacher(self, training, *, patched: bool = False) -> int:
        """Returns the bytes of a training of a student while the teacher stays loaded."""
        inputs = self.inputs
        size = inputs.dataset.tokens.shape[1], inputs.dataset.answer_tokens
        teacher = model_bytes(inputs.teacher_config, inputs.teacher_dtype)
        return teacher + training_bytes(inputs.student_config, training, *size, patched=patched)
