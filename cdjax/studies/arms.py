"""The arms of distillation, at equal steps and equal data, paired by seed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.data import Dataset, Split
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS, KD, arms_by_default
from cdjax.distillation.interchange import check_single_answers
from cdjax.errors import InputError, check_seed
from cdjax.evaluation.statistics import (
    equivalence_p,
    holm,
    steps_to,
)
from cdjax.models import Llama, LlamaConfig
from cdjax.run.options import RunOptions
from cdjax.studies.beside_kd import gain_over_kd
from cdjax.studies.mechanism import MechanismConfig
from cdjax.studies.weight_grid import WeightGrid
from cdjax.training.distillation import DistillationConfig
from cdjax.training.language_model import LanguageModelConfig, train_language_model
from cdjax.wording import choose_from

STARTS = {
    'nothing': 'a student from nothing',
    'partial': 'a student that does part of the task',
    'checkpoint': 'a student from the checkpoint',
}

EVALUATE_EVERY = 250  # steps
PROBLEMS = 1500  # that students are asked, at most
# Whose circuits arms are made of.
CIRCUITS_OF = FOUND, PLANTED = 'found', 'planted'
# The accuracy whose steps are compared, and the difference of accuracies that would not matter.
REACH, EQUIVALENT = 0.8, 0.01


@dataclasses.dataclass(frozen=True)
class ArmsConfig:
    """Which arms are run, and from where.

    Attributes:
        distillation: the distillation; its seed is replaced by each of `seeds`, and what its
            optimizer leaves open suits each of `starts`.
        alignment: how representations are compared, without layers, classes and masks.
        arms: keys of `cdjax.distillation.arms.ARMS`; if None, all that are run by default; without
            any there are no students.
        starts: keys of `STARTS`; if None, the student's checkpoint where one is given, and
            nothing where none is.
        seeds: each gives every arm the same first weights and the same batches.
        head_start_steps: how long the student of start 'partial' is trained, on training forms
            outside the share, so that it has memorised nothing of the share.
        evaluate_every: steps between evaluations on unseen forms.
        max_problems: problems of an evaluation, at most.
        primary: two of the arms, the comparison that the table is made for and that is decided on
            before it is: the accuracy of the first minus that of the second, paired by seed. None
            where nothing is decided, and all comparisons are looks at what came out.
        mechanism: key of the method that finds circuits in every student, whose mechanism is then
            held against the teacher's, see `cdjax.studies.mechanism`; not looked at if None.
        circuits: whose circuits arms are made of, one of `CIRCUITS_OF`: those that a search finds,
            or those that were planted in the teacher, which is a control of the search.
        training_problems: sizes of smaller shares, parts of the share, with which all arms are
            distilled as well, see `cdjax.studies.by_problems`.
        weight_grid: weights of the alignment of which each arm has the one that suits it, see
            `cdjax.studies.weights`; that of the distillation for all arms if None.
    """

    distillation: DistillationConfig = DistillationConfig()
    alignment: Alignment = Alignment()
    arms: tuple[str, ...] | None = None
    starts: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    head_start_steps: int = 300
    evaluate_every: int = EVALUATE_EVERY
    max_problems: int = PROBLEMS
    primary: tuple[str, str] | None = None
    mechanism: str | None = None
    circuits: str = FOUND
    training_problems: tuple[int, ...] = ()
    weight_grid: WeightGrid | None = None

    def __post_init__(self):
        if self.circuits not in CIRCUITS_OF:
            raise InputError(f'circuits={self.circuits}: choose from {", ".join(CIRCUITS_OF)}')
        if len(set(self.training_problems)) < len(self.training_problems):
            listed = ','.join(map(str, self.training_problems))
            raise InputError(f'training_problems={listed}: name each of them once')
        object.__setattr__(self, 'training_problems', tuple(sorted(self.training_problems)))
        if self.arms is None:
            object.__setattr__(self, 'arms', arms_by_default())
        for field, known in (('arms', ARMS), ('starts', STARTS)):
            values = getattr(self, field)
            if values is None:
                continue
            unknown = [value for value in values if value not in known]
            if unknown or (self.arms and not values) or len(set(values)) < len(values):
                choice = choose_from(unknown[0] if unknown else '', known)
                raise InputError(f'{field}={",".join(values)}: {choice}, each of them once')
        self._refuse_without_arms()
        check_site(self.arms, self.alignment)
        if self.mechanism is not None:
            MechanismConfig(self.mechanism)  # one that finds nothing is refused
        if self.primary is not None:
            absent = [arm for arm in self.primary if arm not in self.arms]
            if absent or len(set(self.primary)) != 2:
                raise InputError(
                    f'primary={",".join(self.primary)}: name two of the arms that are run, '
                    f'{", ".join(self.arms) or "none"}'
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f'seeds={list(self.seeds)}: name at least one, and each of them once')
        for seed in self.seeds:
            check_seed(seeds=seed)
        if self.max_problems < 1:
            raise InputError(f'arm_problems={self.max_problems}: at least 1 is needed')
        if self.weight_grid is not None:
            self._check_weight_grid(self.weight_grid)
        if self.evaluate_every < 1:
            raise InputError(f'evaluate_every={self.evaluate_every}: at least 1 step is needed')
        if self.head_start_steps < 1:
            raise InputError(f'head_start_steps={self.head_start_steps}: at least 1 step is needed')

    def _refuse_without_arms(self) -> None:
        """Raises InputError for what only students would read, where there are none."""
        read = {
            'starts': self.starts,
            'mechanism': self.mechanism,
            'training_problems': self.training_problems,
            'arm_circuits': self.circuits != FOUND and self.circuits,
            'weight_grid': self.weight_grid,
        }
        unread = [name for name, value in read.items() if value and not self.arms]
        if unread:
            raise InputError(
                f'{unread[0]} is about students, and no arms are run: name arms, or leave it out'
            )

    def _check_weight_grid(self, grid: WeightGrid) -> None:
        grid.check(self.distillation.weight, self.seeds)
        if all(ARMS[arm].align is None for arm in self.arms):
            raise InputError(
                f'{grid} is of alignments, and {", ".join(self.arms)} aligns nothing: leave it out'
            )
        if 'partial' in (self.starts or ()):
            raise InputError(
                f'{grid}: in their head start students of starts=partial learn the forms outside '
                'the share that weights are chosen on: leave out one of the two'
            )

    def decided(self) -> dict[str, Any]:
        """Returns all of it as an object, without what is younger than published tables and off."""
        decided = dataclasses.asdict(self)
        if self.weight_grid is None:
            del decided['weight_grid']
        return decided

    def distillation_from(self, start: str) -> DistillationConfig:
        """Returns the distillation of the students of a start."""
        return self.distillation.suited_to(pretrained=start == 'checkpoint')

    def with_problems(self, problems: int) -> 'ArmsConfig':
        """Returns the arms of a share of so few problems, all of them a batch where it is less."""
        batch_size = min(self.distillation.batch_size, problems)
        distillation = dataclasses.replace(self.distillation, batch_size=batch_size)
        return dataclasses.replace(
            self, distillation=distillation, primary=None, mechanism=None, training_problems=()
        )

    def describe(self) -> str:
        """Returns a line on the optimizer of each start."""
        return '\n'.join(
            f'{STARTS[start]}: {self.distillation_from(start).describe()}' for start in self.starts
        )

    def head_start(self, seed: int) -> LanguageModelConfig:
        """Returns how a student of start 'partial' is trained, by the same optimizer."""
        like = self.distillation_from('partial')
        return LanguageModelConfig(
            dataclasses.replace(like.optimizer, steps=self.head_start_steps),
            batch_size=like.batch_size,
            microbatches=like.microbatches,
            seed=seed,
            compute_dtype=like.compute_dtype,
            remat=like.remat,
        )


def check_site(arms: Sequence[str], alignment: Alignment) -> None:
    """Raises InputError for arms of circuits, which are of neurons, at another site.

    Likewise for what patches circuits in an arm that has none.
    """
    if alignment.interchange:
        bare = [key for key in arms if ARMS[key].align is not None and not ARMS[key].needs_circuits]
        if bare:
            raise InputError(
                f'similarity={alignment.similarity} patches circuits, and there are none in '
                f'{", ".join(bare)}: leave it out'
            )
    of_circuits = [key for key in arms if ARMS[key].needs_circuits]
    if of_circuits and not alignment.of_neurons:
        raise InputError(
            f'align_site={alignment.site} has no circuits, which are of neurons: leave out '
            f'{", ".join(of_circuits)}'
        )


def check_answers(arms: Sequence[str], alignment: Alignment, dataset: Dataset) -> None:
    """Raises InputError for arms that know answers of one token, where some have several."""
    compared = [key for key in arms if ARMS[key].align is not None]
    patching = [key for key in compared if ARMS[key].patches]
    if patching or (compared and alignment.interchange):
        check_single_answers(dataset.answer_tokens, patching)


def rows_outside_share(split: Split) -> np.ndarray:
    """Returns the training problems that distillation does not use.

    Head starts learn from them, and weights are chosen on them.

    Raises:
        InputError: there are none.
    """
    outside = np.setdiff1d(split.train, split.share)
    if not len(outside):
        raise InputError(
            'share=1 leaves no training forms outside the share, for a head start or a choice of '
            'weights: set a smaller share'
        )
    return outside


def train_head_start(
    student: LlamaConfig,
    dataset: Dataset,
    split: Split,
    config: LanguageModelConfig,
    *,
    mesh: Mesh | None = None,
    workdir: epath.Path | None = None,
    options: RunOptions = RunOptions(),
) -> Llama:
    """Trains the student of start 'partial' on training forms outside the share."""
    model, _ = train_language_model(
        student,
        dataset[rows_outside_share(split)],
        config,
        mesh=mesh,
        description=f'head start, seed {config.seed}',
        workdir=workdir,
        options=options,
    )
    return model


def evaluated_rows(split: Split, config: ArmsConfig) -> np.ndarray:
    """Returns the problems of unseen forms that students are evaluated on."""
    return drawn(split.test, config.max_problems)


def drawn(rows: np.ndarray, most: int) -> np.ndarray:
    """Returns so many of some rows at most, ascending, the same ones every time."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:most])


def summarise(runs: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Returns one row an arm for the runs of one start: accuracies, and gains over KD by seed.

    The gain is paired by seed, for seeds differ by more than arms do. Its interval is Student's t
    over the seeds, 95 %; None with fewer than two, like its p, and its p of a difference below
    `EQUIVALENT`. `p_holm` holds for all arms of the table together.
    """
    of = {(run['arm'], run['seed']): run['unseen'] for run in runs}
    curves = {(run['arm'], run['seed']): run['curve'] for run in runs}
    rows = []
    for arm in arms:
        seeds = sorted(seed for name, seed in of if name == arm)
        accuracies = [of[arm, seed] for seed in seeds]
        row = {
            'arm': arm,
            **{field: getattr(ARMS[arm], field) for field in ('title', 'phrase', 'colour')},
            'seeds': seeds,
            'accuracies': accuracies,
            'mean': float(np.mean(accuracies)),
            'steps_to_reach': [steps_to(curves[arm, seed], REACH) for seed in seeds],
        }
        paired = [of[arm, seed] - of[KD.key, seed] for seed in seeds if (KD.key, seed) in of]
        if arm != KD.key and paired:
            row['gains'] = paired
            row |= gain_over_kd(paired)
            row['p_equivalent'] = equivalence_p(paired, EQUIVALENT)
        rows.append(row)
    tested = [row for row in rows if row.get('p') is not None]
    for row, p in zip(tested, holm([row['p'] for row in tested]), strict=True):
        row['p_holm'] = p
    return rows
