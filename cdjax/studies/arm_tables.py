"""What the students of a run are compared by: a table for each start, and what stands beside it."""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS, KD
from cdjax.distillation.arms.interchange import own_parts
from cdjax.distillation.headroom import CLOSE, close_pairs, contributions, headroom
from cdjax.distillation.patched_headroom import alike_patches, patched_headroom, some_problems
from cdjax.distillation.target import Target
from cdjax.inference.predictions import predict
from cdjax.run.results import stored
from cdjax.studies.analysis import primary_comparison
from cdjax.studies.arms import evaluated_rows, summarise
from cdjax.studies.by_problems import by_problems
from cdjax.studies.costs import measure_forgetting, summarise_costs
from cdjax.studies.dissociation import dissociation
from cdjax.studies.equal_flops import at_equal_flops, step_flops
from cdjax.studies.ground_truth import planted_classes
from cdjax.studies.knowable import knowable_part
from cdjax.studies.mechanism import Mechanism, MechanismConfig, summarise_mechanism
from cdjax.studies.places import student_name
from cdjax.studies.students import Students

PAIRS_SHOWN = 5  # of arms whose targets are alike, in a warning


class ArmTables:
    """The tables of the arms of one run.

    Args:
        students: the students, which are distilled as they are asked for.
    """

    def __init__(self, students: Students):
        self.students, self.run, self.arms = students, students.run, students.arms

    def compare_arms(self) -> dict[str, Any]:
        """Distils every arm from every start with every seed; returns runs and tables by start."""
        headrooms = self.headroom()
        starts = {}
        for start in self.arms.starts:
            weights = self.students.weights(start)
            runs = self.students.distil_all(start)
            starts[start] = {
                'table': summarise(runs, self.arms.arms),
                'runs': runs,
                'costs': summarise_costs(runs),
                'first': self.describe_start(start),
                **headrooms[start],
                'knowable': self._knowable(self.students),
            }
            if weights is not None:
                starts[start]['weights'] = weights
            if KD.key in self.arms.arms:
                starts[start]['equal_flops'] = at_equal_flops(runs, self.step_flops(start))
            primary = primary_comparison(runs, self.arms)
            if primary is not None:
                starts[start]['primary'] = primary
            apart = dissociation(runs)
            if apart is not None:
                starts[start]['dissociation'] = apart
            if self.arms.training_problems:
                starts[start]['by_problems'] = self.by_problems(start, starts[start]['table'])
            if self.arms.mechanism is not None:
                starts[start]['mechanism'] = self.mechanism(start, runs)
        return starts

    def by_problems(self, start: str, table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Distils every student with fewer problems as well; see `cdjax.studies.by_problems`.

        Args:
            start: the start.
            table: rows of `summarise`, of the whole share.
        """
        tables = {len(self.run.inputs.split.share): table}
        knowable = {len(self.run.inputs.split.share): self._knowable(self.students)}
        for problems in self.arms.training_problems:
            fewer = self.students.with_problems(problems)
            runs, size = fewer.distil_all(start), len(fewer.run.inputs.split.share)
            tables[size], knowable[size] = summarise(runs, self.arms.arms), self._knowable(fewer)
        return by_problems(tables) | {'knowable': [knowable[size] for size in sorted(tables)]}

    def _knowable(self, students: Students) -> float | None:
        inputs = students.run.inputs
        return knowable_part(inputs, evaluated_rows(inputs.split, self.arms))

    def mechanism(self, start: str, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Looks for the teacher's mechanism in every student of a start; see `studies.mechanism`.

        Args:
            start: the start.
            runs: of all its students, which have been distilled.
        """
        found = {}
        for told in runs:
            arm, seed = told['arm'], told['seed']
            name = student_name(start, arm, seed)

            def compute(arm=arm, seed=seed, name=name):
                # Only students of start 'partial' have teacher's circuits for each seed.
                study = self._mechanism(start, seed if start == 'partial' else self.arms.seeds[0])
                given = self.students.given(start, seed)
                return study.measure(
                    self.students.distilled(start, arm, seed),
                    name,
                    own_parts(given),
                    given.alignment.pairs,
                    seed,
                )

            path = self.run.places.result('mechanism', name)
            # By another method, or as it was told before what the chosen size keeps was measured
            # on other problems, it is told again.
            holds = lambda told: (
                told.get('method') == self.arms.mechanism and 'faithful_kept' in told
            )
            found[arm, seed] = stored(path, compute, holds=holds)
        return summarise_mechanism(runs, found)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _mechanism(self, start: str, seed: int) -> Mechanism:
        config = MechanismConfig(self.arms.mechanism, max_problems=self.arms.max_problems)
        teacher, planted = self.students.circuits(start, seed)[0], planted_classes(self.run.inputs)
        return Mechanism(self.run, teacher, self.students.discovery, config, planted)

    def headroom(self) -> dict[str, dict[str, Any]]:
        """Returns what the arms of each start align in the teacher, before any of it is distilled.

        With the circuits and the draws of the first seed, on the share; warns of arms that can
        hardly be told apart.

        Returns:
            By start `headroom`, how alike the targets of every two arms are; and where that was
            measured for an arm, `contribution`, what the columns of each contribute in parts of
            what those of the class circuits do, and `patches`, see `patched_headroom`.
        """
        found = {}
        for start in self.arms.starts:
            told = self._headroom(start, self.arms.seeds[0])
            found[start] = {'headroom': told['similarity']}
            found[start] |= {key: told[key] for key in ('contribution', 'patches') if told.get(key)}
            _warn_of(start, told)
        return found

    def _headroom(self, start: str, seed: int) -> dict[str, Any]:
        def compute():
            given, share = self.students.given(start, seed), len(self.run.inputs.split.share)
            arms = {key: ARMS[key].alignment(given) for key in self.arms.arms}
            # What a patch does is compared by its answers, see below.
            alignments = {
                key: found
                for key, found in arms.items()
                if found is not None and not found.interchange
            }

            def of_teacher(alignment: Alignment) -> np.ndarray:
                store = self.students.says.store(alignment.stored)[:share]
                if alignment.written:
                    return Target(alignment, store)[np.arange(share)]
                return alignment.of_teacher(store.of_layers(alignment.teacher_layers))

            targets = {key: of_teacher(found) for key, found in alignments.items()}
            return {
                'arms': list(self.arms.arms),
                'similarity': headroom(alignments, targets),
                'contribution': contributions(given, arms),
                'patches': self._patches(arms, seed, share),
            }

        path = self.run.places.result('headroom', start)
        # Of a table that arms are added to, it is told again; once patches were not told of.
        patched = any(ARMS[arm].interchanges(self.arms.alignment) for arm in self.arms.arms)
        known = {'contribution'} | ({'patches'} if patched else set())
        holds = lambda found: found['arms'] == list(self.arms.arms) and known <= found.keys()
        return stored(path, compute, holds=holds)

    def _patches(
        self, arms: Mapping[str, Alignment | None], seed: int, share: int
    ) -> list[dict[str, Any]]:
        """Returns what `patched_headroom` does, of arms of interchange, on some of the share."""
        says, rows, patched = self.students.says, some_problems(share), {}
        for key, found in arms.items():
            answers = says.interchange(found, share, seed)
            if answers is not None:
                patched[key] = answers.of(rows)
        if not patched:
            return []
        store = says.store()
        return patched_headroom(
            patched,
            store.logits_of(rows),
            temperature=self.arms.distillation.temperature,
            vocab_size=store.vocab_size,
        )

    def step_flops(self, start: str) -> dict[str, float]:
        """Returns the FLOPs of a step of each arm, of students of a start.

        Answers are taken to be the teacher's; right answers in their place cost no less.
        """

        def compute():
            given = self.students.given(start, self.arms.seeds[0])
            config = self.arms.distillation_from(start)
            how = {'pretrained': start != 'nothing', 'mesh': self.run.mesh}
            return {
                'flops': {
                    arm: step_flops(self.run.inputs, config, ARMS[arm].alignment(given), **how)
                    for arm in self.arms.arms
                }
            }

        path = self.run.places.result('step_flops', start)
        # Of a table that arms are added to, they are counted again.
        holds = lambda found: list(found['flops']) == list(self.arms.arms)
        return stored(path, compute, holds=holds)['flops']

    def describe_start(self, start: str) -> dict[str, Any] | None:
        """Returns what a student could do before it was distilled, None for one from nothing."""
        if start == 'nothing':
            return None
        inputs = self.run.inputs

        def compute():
            parts = {
                'unseen': inputs.dataset[evaluated_rows(inputs.split, self.arms)],
                'share': inputs.dataset[inputs.split.share[: self.arms.max_problems]],
            }
            found = {name: [] for name in (*parts, 'perplexity', 'others')}
            for seed in self.arms.seeds:  # one student at a time is held
                model = self.students.first(start, seed)
                for name, problems in parts.items():
                    found[name].append(predict(model, problems, **self.run.passes).accuracy)
                known = measure_forgetting(model, inputs, self.arms.max_problems, **self.run.passes)
                for name in ('perplexity', 'others'):
                    found[name].append(known[name])
            return {'seeds': list(self.arms.seeds), **found}

        path = self.run.places.result(f'start_{start}')
        return stored(path, compute, holds=lambda found: found['seeds'] == list(self.arms.seeds))


def _warn_of(start: str, told: Mapping[str, Any]) -> None:
    """Warns of arms of a start that can hardly be told apart, see `ArmTables.headroom`."""
    close = [f'{a} and {b} {value:.2f}' for a, b, value in close_pairs(told['similarity'])]
    if close:
        warnings.warn(
            f'start {start}: inside the teacher the targets of these arms are much alike '
            f'(debiased CKA above {CLOSE:g}), and the two can hardly be told apart: '
            f'{_listed(close)}',
            stacklevel=3,
        )
    alike = [
        f'{a} and {b} ' + ('change none' if same is None else f'{same:.2f}')
        for a, b, same in alike_patches(told.get('patches', ()))
    ]
    if alike:
        warnings.warn(
            f'start {start}: most answers of the teacher that a patch of these arms changes are '
            f'the same with both, and the two can hardly be told apart: {_listed(alike)}',
            stacklevel=3,
        )


def _listed(pairs: Sequence[str]) -> str:
    """Returns the first few in a line, and how many more there are."""
    more = len(pairs) - PAIRS_SHOWN
    return ', '.join([*pairs[:PAIRS_SHOWN], *([f'and {more} more'] if more > 0 else [])])
