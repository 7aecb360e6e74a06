"""Stage 2 of a study: the students of every arm, from every start, with every seed."""

import dataclasses
import functools
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.data.training_data import OUTSIDE_SHARE
from cdjax.distillation.arms import ARMS, Given
from cdjax.distillation.pairings import Context, pair_layers, reads_models
from cdjax.distillation.pairs import LayerPairs, layer_of, pairs_from_numbers, pairs_to_numbers
from cdjax.inference.predictions import predict
from cdjax.models import Llama, LlamaConfig
from cdjax.planning.job import abstract_weights
from cdjax.run.results import stored
from cdjax.studies.arms import (
    PLANTED,
    ArmsConfig,
    evaluated_rows,
    train_head_start,
)
from cdjax.studies.costs import measure_beyond, measure_forgetting
from cdjax.studies.discovery import discover_circuits, search_in_students
from cdjax.studies.evaluation import discover_teacher
from cdjax.studies.ground_truth import planted_circuit
from cdjax.studies.inputs import Inputs
from cdjax.studies.layer_pairs import pair_by_doing
from cdjax.studies.places import student_name
from cdjax.studies.run import Run
from cdjax.studies.student import describe_training, distil, given_to, measure_unseen, prepare
from cdjax.studies.teacher_says import Asked, TeacherSays
from cdjax.studies.weights import choose_weights
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig


class Students:
    """The students of one run. Each is distilled once, and read from disk ever after.

    Args:
        run: the run.
        arms: which students; its starts are chosen.
        discovery: the search for circuits, in the teacher and jointly in students that do part of
            the task.
        layer_pairs: which layers are aligned, see `cdjax.distillation.pairings.pair_layers`.
        most_pairs: see `cdjax.distillation.pairings.Context.most`.
        whole: the students of the whole share, where these have a part of it: they have the same
            circuits, pairs of layers, weights of alignments and first weights.
    """

    def __init__(
        self,
        run: Run,
        arms: ArmsConfig,
        discovery: DiscoveryConfig,
        layer_pairs: str,
        most_pairs: int | None = None,
        whole: 'Students | None' = None,
    ):
        self.run, self.arms, self.discovery = run, arms, discovery
        self.layer_pairs, self.most_pairs, self.whole = layer_pairs, most_pairs, whole

    def with_problems(self, problems: int) -> 'Students':
        """Returns the students of a smaller share, in a folder of their own."""
        inputs = self.run.inputs.with_share(problems)
        run = self.run.with_inputs(inputs, self.run.places.with_problems(problems).folder)
        arms = self.arms.with_problems(len(inputs.split.share))
        return Students(run, arms, self.discovery, self.layer_pairs, self.most_pairs, self)

    def distil_all(self, start: str) -> list[dict[str, Any]]:
        """Distils every arm with every seed from a start; returns their measurements."""
        return [self.distil(start, arm, seed) for seed in self.arms.seeds for arm in self.arms.arms]

    def distilled(self, start: str, arm: str, seed: int) -> Llama:
        """Returns a student that was distilled, from its last checkpoint."""
        from cdjax.run.checkpoints import Checkpoints  # takes seconds to import

        like = abstract_weights(self.run.inputs.student_config, 'float32', self.run.mesh)
        folder = self.run.places.distillation(student_name(start, arm, seed))
        with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
            return checkpoints.restore_parameters(like)

    def distil(self, start: str, arm: str, seed: int) -> dict[str, Any]:
        """Distils one student; returns its measurements, and keeps it if its seed is the first."""
        run, most, name = self.run, self.arms.max_problems, student_name(start, arm, seed)
        inputs, passes = run.inputs, run.passes

        def compute():
            given, share = self.given(start, seed), inputs.split.share
            unseen = evaluated_rows(inputs.split, self.arms)
            problems = inputs.dataset[unseen]
            model, history = distil(
                run,
                prepare(ARMS[arm], given, self.says),
                self.first(start, seed),
                self.distillation(start, arm),
                problems,
                evaluate_every=self.arms.evaluate_every,
                workdir=run.places.distillation(name),
                description=f'distill: {arm}, seed {seed}',
            )
            told = describe_training(history)
            if seed == self.arms.seeds[0] and self.whole is None:
                self.save(model, start, run.places.student(name))
            return {
                'arm': arm,
                'seed': seed,
                'pairs': pairs_to_numbers(given.alignment.pairs),
                'unseen': told['curve'][-1][1],
                'share': predict(model, inputs.dataset[share[:most]], **passes).accuracy,
                **told,
                **measure_unseen(
                    model, problems, self.says.store()[len(share) :], unseen, given, **passes
                ),
                **measure_beyond(model, inputs, most, **passes),
                **measure_forgetting(model, inputs, most, **passes),
            }

        return stored(run.places.result('arms', name), compute)

    def distillation(self, start: str, arm: str) -> DistillationConfig:
        """Returns the distillation of the students of an arm, with the weight that suits it."""
        config, weights = self.arms.distillation_from(start), self.weights(start)
        chosen = {} if weights is None else {one['arm']: one['chosen'] for one in weights['arms']}
        return dataclasses.replace(config, weight=chosen.get(arm, config.weight))

    @functools.lru_cache  # noqa: B019 (students live as long as their process)
    def weights(self, start: str) -> dict[str, Any] | None:
        """Returns the weight that suits each arm, see `choose_weights`; None without a choice."""
        if self.whole is not None:
            return self.whole.weights(start)
        return None if self.arms.weight_grid is None else choose_weights(self, start)

    def save(self, model: Llama, start: str, target) -> None:
        """Saves a student of a start as a Hugging Face folder, unless it is there."""
        trained_on = (OUTSIDE_SHARE, 'share') if start == 'partial' else ('share',)
        self.run.save_student(model, target, *trained_on, from_checkpoint=start == 'checkpoint')

    @functools.cached_property
    def says(self) -> TeacherSays:
        """What the teacher says of the share and, behind it, of the unseen problems evaluated."""
        inputs = self.run.inputs
        if self.whole is not None:
            share = self.whole.run.inputs.split.share
            own = np.flatnonzero(np.isin(share, inputs.split.share))
            behind = len(evaluated_rows(inputs.split, self.arms))
            return self.whole.says.some(np.r_[own, len(share) : len(share) + behind])
        return TeacherSays(self.run, asked_of_teacher(inputs, self.arms, self.layer_pairs))

    @functools.lru_cache(maxsize=1)  # noqa: B019 (students live as long as their process)
    def first(self, start: str, seed: int) -> Llama | LlamaConfig:
        """Returns what the students of a start and a seed start from."""
        if self.whole is not None:
            return self.whole.first(start, seed)
        if start == 'nothing':
            return self.run.inputs.student_config
        if start == 'checkpoint':
            return self.run.inputs.load_student(self.run.mesh)
        return train_head_start(
            self.run.inputs.student_config,
            self.run.inputs.dataset,
            self.run.inputs.split,
            self.arms.head_start(seed),
            mesh=self.run.mesh,
            workdir=self.run.places.head_start(seed),
            options=self.run.options,
        )

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def given(self, start: str, seed: int) -> Given:
        """Returns what the arms of a start and a seed are made from.

        A student from nothing has no circuits yet, and is aligned with all its neurons. One that
        does part of the task has its own, discovered jointly with the teacher's.
        """
        alignment = dataclasses.replace(self.arms.alignment, pairs=self.pairs(start, seed))
        return given_to(
            [ARMS[arm] for arm in self.arms.arms],
            self.run.inputs,
            alignment,
            self.circuits(start, seed),
            self.says,
            seed,
        )

    def circuits(self, start: str, seed: int) -> tuple[Circuit, Circuit | None]:
        """Returns the circuits of the teacher, and those of a student that has any."""
        if self.whole is not None:
            return self.whole.circuits(start, seed)
        if self.arms.circuits == PLANTED:
            return self._planted, None
        if start == 'nothing':
            return discover_teacher(self.run, self.discovery), None
        at = self.run.places.search_jointly(start, seed)
        joint = discover_circuits(
            self.run,
            lambda: {'teacher': self.run.teacher, 'student': self.first(start, seed)},
            search_in_students(self.discovery),
            at.circuits,
            training=at.training,
            description=f'discover: {at.training.name}',
        )
        return joint['teacher'], joint['student']

    @functools.cached_property
    def _planted(self) -> Circuit:
        return planted_circuit(self.run)

    def pairs(self, start: str, seed: int) -> LayerPairs:
        """Returns the layers that are aligned, paired once where the student's doing decides."""
        if self.whole is not None:
            return self.whole.pairs(start, seed)
        if not reads_models(self.layer_pairs):
            return self.pairs_from_shapes

        def compute():
            pairs = pair_by_doing(
                self.layer_pairs,
                (self.first(start, seed), self.run.teacher),
                self.run.inputs,
                self.arms.alignment,
                self.most_pairs,
                seed,
                self.run.passes,
            )
            return {'pairs': pairs_to_numbers(pairs)}

        path = self.run.places.result('pairs', f'{start}-{seed}')
        return pairs_from_numbers(stored(path, compute)['pairs'])

    @functools.cached_property
    def pairs_from_shapes(self) -> LayerPairs:
        """The layers that are aligned, where the shapes of the models tell them."""
        return _pairs_from_shapes(self.run.inputs, self.arms, self.layer_pairs)


def asked_of_teacher(inputs: Inputs, arms: ArmsConfig, layer_pairs: str) -> Asked:
    """Returns what the teacher is going to be asked for the students of the whole share.

    Args:
        inputs: the problems and the shapes.
        arms: which students.
        layer_pairs: which layers are aligned, see `cdjax.distillation.pairings.pair_layers`.
    """
    rows = np.concatenate([inputs.split.share, evaluated_rows(inputs.split, arms)])
    run = [ARMS[arm] for arm in arms.arms]
    # Layers that a student's own doing is going to choose are not known yet.
    layers = None
    if not any(arm.other_layers for arm in run) and not reads_models(layer_pairs):
        layers = {layer_of(teacher) for _, teacher in _pairs_from_shapes(inputs, arms, layer_pairs)}
    return Asked(rows, arms.distillation, arms.alignment, layers, run)


def _pairs_from_shapes(inputs: Inputs, arms: ArmsConfig, layer_pairs: str) -> LayerPairs:
    shapes = inputs.student_config, inputs.teacher_config
    return pair_layers(layer_pairs, *shapes, context=Context(arms.alignment.site))
