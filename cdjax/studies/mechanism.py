"""Did the mechanism move? What a distilled student computes where, held against its teacher.

Outputs cannot tell: two models may answer alike and compute apart. Circuits are sought in each
student for the teacher's classes, as small as they keep what it can do, and what they do is
compared; where no size keeps it, they are not its mechanism, and nothing is compared. The size is
chosen on one half of the unseen problems, and what its circuits do is told of the other: training
forms are what their neurons were ranked on, and some students have learned them. The neurons that
are meant to do the teacher's part are patched as well, which takes no search.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.clusters import cluster
from cdjax.circuits.masks import binarize, random_masks
from cdjax.circuits.methods import LEARNED, METHODS
from cdjax.circuits.methods.method import Context
from cdjax.distillation.interchange import draw_sources, in_layers, predict_patched
from cdjax.distillation.pairs import LayerPairs, layer_of
from cdjax.errors import InputError
from cdjax.evaluation.classes import agreement
from cdjax.evaluation.selectivity import (
    compare_matrices,
    selectivity,
    selectivity_matrix,
    specific_parts,
)
from cdjax.inference.attribution_vectors import attribution_vectors
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import Predictions
from cdjax.models import Llama
from cdjax.planted.recovery import parts_found
from cdjax.studies.beside_kd import beside_kd
from cdjax.studies.circuits import Ablated
from cdjax.studies.circuits.config import EVALUATED
from cdjax.studies.discovery import discover_circuits, search_in_students
from cdjax.studies.run import Run
from cdjax.training.discovery import DiscoveryConfig

# The part of its accuracy that a student has to keep with only its circuits for these to be
# compared with the teacher's.
FAITHFUL = 0.9

# The larger sizes at which they are cut: times the teacher's share of neurons, up to a part of the
# student's. KD's students of the shipped planted teacher keep 90 % with half of their neurons, and
# of what is any class's own about as much is in these as in smaller circuits; of three quarters on
# half of it and less.
TIMES, MOST = (1.5, 2, 2.5, 3, 4, 6, 8, 12), 0.75

# What is told of each student, by key: its name in tables, and whether it is about its circuits.
MEASURES = {
    'interchange': ('interchange accuracy', True),
    'selectivity': ('selectivity of specific parts', True),
    'correlation': ('correlation of ablation patterns', True),
    'faithful_share': ('smallest share of neurons whose circuits keep 90 %', True),
    'paired': ('interchange accuracy of the neurons meant for each class', False),
    'paired_random': ('the same of random neurons, as many in each layer', False),
    'classes': ('classes in the use of neurons, NMI', False),
    'kept': ('kept with only circuits of the teacher’s share', False),
    'auroc': ('neurons meant for each class found, AUROC', False),
    'precision': ('neurons meant for each class found, precision', False),
}


def larger_sizes(share: float, neurons: int) -> list[int]:
    """Returns the sizes, beyond the first, at which circuits of a student are cut, ascending.

    Args:
        share: of the first size.
        neurons: of the student.
    """
    return [round(times * share * neurons) for times in TIMES if times * share <= MOST]


def first_faithful(only: Sequence[np.ndarray], whole: np.ndarray) -> int | None:
    """Returns which circuits are the first that keep `FAITHFUL` of a student; None if none do.

    Args:
        only: bool `[N]` of each, the problems that are right with only these circuits.
        whole: bool `[N]`, those that are right with all neurons.
    """
    if not whole.any():  # who answers nothing keeps nothing
        return None
    return next((i for i, one in enumerate(only) if _kept(one, whole) >= FAITHFUL), None)


@dataclasses.dataclass(frozen=True)
class MechanismConfig:
    """How the mechanism of students is looked for.

    Attributes:
        method: key of the method that finds circuits in students: `learned` searches again, for as
            long as in the teacher; one that ranks neurons takes seconds.
        sources: other problems from which each circuit is patched.
        max_problems: problems of unseen forms that are asked, at most.
        seed: of these problems and their halves, of the sources and of k-means.
    """

    method: str = LEARNED.key
    sources: int = 4
    max_problems: int = EVALUATED
    seed: int = 0

    def __post_init__(self):
        if METHODS[self.method].scores is None and self.method != LEARNED.key:
            raise InputError(
                f'mechanism={self.method} draws masks, and finds no circuits: name a method that '
                'ranks neurons'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A model with circuits of the classes, on some unseen problems.

    Attributes:
        model: the model.
        circuits: bool `[K, L, F]`.
        scores: float `[K, L, F]`, the ranking that they were cut from.
        fill: float32 `[L, T, F]`, mean activations.
    """

    model: Llama
    circuits: np.ndarray
    scores: np.ndarray
    fill: np.ndarray


class Mechanism:
    """What a teacher does with its circuits, and how students compare.

    Args:
        run: the run.
        teacher: the teacher's circuits; their classes are those of the problems.
        discovery: the search for circuits.
        config: how students are looked at.
        planted: int `[N]`, the classes that were planted in the teacher; those of its circuits if
            None.
    """

    def __init__(
        self,
        run: Run,
        teacher: Circuit,
        discovery: DiscoveryConfig,
        config: MechanismConfig,
        planted: np.ndarray | None = None,
    ):
        self._run, self._teacher, self._discovery, self._config = run, teacher, discovery, config
        self._classes = teacher.assignments
        self._planted = self._classes if planted is None else planted
        rng = np.random.default_rng(config.seed)
        unseen = np.sort(rng.permutation(run.inputs.split.test)[: config.max_problems])
        self._rows, self._problems = unseen, run.inputs.dataset[unseen]
        # The half that sizes are chosen on; of the other it is told what their circuits do.
        self._choose = rng.permutation(len(unseen)) < len(unseen) // 2
        self._of_row = self._classes[unseen]
        self._sources = draw_sources(
            self._problems.prompt_sizes, self._of_row, config.sources, seed=config.seed
        )
        self._of_teacher: dict[str, Any] | None = None
        self._patched_in: dict[tuple[int, ...], np.ndarray] = {}

    def measure(
        self, student: Llama, name: str, meant: np.ndarray, pairs: LayerPairs, seed: int
    ) -> dict[str, Any]:
        """Looks for the teacher's mechanism in a student; see docs/artefacts.md for the fields.

        Args:
            student: the student.
            name: of its folders.
            meant: bool `[K, L, F]`, the student's neurons that are meant to be each class's own:
                the blocks of an interchange, or the specific parts of circuits that it had. KD's
                students are asked for the same, and are not told of them.
            pairs: the layers that are paired: there `meant` is patched, and the teacher's own parts
                that it is held against.
            seed: of the student, by which random neurons are drawn: one draw for all students would
                be chance of which none of their intervals knows.
        """
        found = self._find_circuits(student, name)
        ablated, cuts = self._ablated(found), self._cuts(found)
        whole = ablated.full.correct
        only = [one.correct for one in ablated.only(cuts, self._of_row)]
        choose, tell = self._choose, ~self._choose
        at = first_faithful([one[choose] for one in only], whole[choose])
        circuits = cuts[at or 0]
        teacher, matrix = self._teachers(), self._matrix(ablated, circuits)
        expected = teacher['patched'][tell]
        moved = expected != teacher['plain'][tell]
        patched = self._patched(student, specific_parts(circuits))[tell]
        vectors = attribution_vectors(
            student, self._run.inputs.dataset, found.fill, **self._run.passes
        )
        K, train = self._teacher.num_classes, self._run.inputs.split.train
        clusters = cluster(vectors, train, K, seed=self._config.seed)
        correlation, _ = compare_matrices(teacher['matrix'], matrix)
        return {
            'method': self._config.method,
            'chosen_on': int(choose.sum()),
            'accuracy': float(whole[tell].mean()),
            'only': float(only[0][tell].mean()),
            'kept': _kept(only[0][tell], whole[tell]),
            'faithful': at is not None,
            'faithful_kept': None if at is None else _kept(only[at][tell], whole[tell]),
            'faithful_share': None if at is None else float(circuits[0].mean()),
            'selectivity': selectivity(matrix),
            'teacher_selectivity': selectivity(teacher['matrix']),
            'correlation': correlation,
            'interchange': _part((patched == expected)[moved]),
            'interchange_unpatched': _part(
                (_first_tokens(ablated.full)[tell] == expected)[moved],
            ),
            'moved': _part(moved),
            **self._paired(student, meant, pairs, seed),
            'classes': agreement(clusters[self._rows], self._planted[self._rows]).nmi,
            **parts_found(found.scores, meant),
        }

    def _find_circuits(self, student: Llama, name: str) -> Measured:
        run, inputs = self._run, self._run.inputs
        if self._config.method == LEARNED.key:
            at = run.places.search_student(name)
            circuit = discover_circuits(
                run,
                lambda: {'student': student},
                search_in_students(self._discovery),
                at.circuits,
                training=at.training,
                description=f'discover: {name}',
                classes=self._classes,
                options=run.options.unchecked,
            )['student']
            return Measured(student, circuit.masks, circuit.scores, circuit.fill)
        fill = neuron_means(student, inputs.dataset[inputs.split.train], **run.passes)
        context = Context(fill=fill, seed=self._config.seed, mesh=run.mesh, options=run.options)
        scores = METHODS[self._config.method].scores(
            student, inputs.dataset, inputs.split.train, self._classes, context=context
        )
        size = round(self._teacher.share * scores[0].size)
        return Measured(student, binarize(scores, size), scores, fill)

    def _cuts(self, found: Measured) -> list[np.ndarray]:
        """Returns circuits of the teacher's share of a student's neurons, and larger ones."""
        larger = larger_sizes(self._teacher.share, found.scores[0].size)
        return [found.circuits, *(binarize(found.scores, size) for size in larger)]

    def _paired(
        self, student: Llama, meant: np.ndarray, pairs: LayerPairs, seed: int
    ) -> dict[str, float | None]:
        """Returns how often blocks of a student answer a patch as the teacher's own parts do."""
        of_student, of_teacher = (tuple(map(layer_of, side)) for side in zip(*pairs, strict=True))
        teacher = self._teacher_patched(of_teacher)
        moved = teacher != self._teachers()['plain']
        random = random_masks(meant, seed=seed)

        def same(block: np.ndarray) -> float | None:
            patched = self._patched(student, in_layers(block, of_student))
            return _part((patched == teacher)[moved])

        return {
            'paired': same(meant),
            'paired_random': same(random),
            'paired_moved': _part(moved),
        }

    def _teachers(self) -> dict[str, Any]:
        """Returns what the teacher does, computed once."""
        if self._of_teacher is None:
            circuit = self._teacher
            teacher = Measured(self._run.teacher, circuit.masks, circuit.scores, circuit.fill)
            ablated = self._ablated(teacher)
            self._of_teacher = {
                'matrix': self._matrix(ablated, teacher.circuits),
                'plain': _first_tokens(ablated.full),
                'patched': self._teacher_patched(range(len(circuit.masks[0]))),
            }
        return self._of_teacher

    def _teacher_patched(self, layers: Iterable[int]) -> np.ndarray:
        """Returns the teacher's answers with its specific parts in some layers patched."""
        layers = tuple(sorted(set(layers)))
        if layers not in self._patched_in:
            own = in_layers(specific_parts(self._teacher.masks), layers)
            self._patched_in[layers] = self._patched(self._run.teacher, own)
        return self._patched_in[layers]

    def _ablated(self, of: Measured) -> Ablated:
        return Ablated(of.model, self._problems, of.fill, 'mean', self._run.passes)

    def _matrix(self, ablated: Ablated, circuits: np.ndarray) -> np.ndarray:
        """The probability of the answer by class without each circuit's specific part."""
        without, tell = ablated.without_each(specific_parts(circuits)), ~self._choose
        probability = np.stack([p.probability[tell] for p in without])
        return selectivity_matrix(probability, self._of_row[tell])

    def _patched(self, model: Llama, own: np.ndarray) -> np.ndarray:
        """The answers with the own neurons of each class patched from each source, `[N, R]`."""
        return predict_patched(
            model,
            self._problems,
            own,
            self._of_row,
            self._sources,
            **self._run.passes,
        )


def _kept(only: np.ndarray, whole: np.ndarray) -> float:
    """Returns the part of its right answers that a student keeps, 0 of none."""
    return float(only.sum() / whole.sum()) if whole.any() else 0.0


def _part(of: np.ndarray) -> float | None:
    """Returns the part that is true, None of nothing."""
    return float(of.mean()) if of.size else None


def _first_tokens(said: Predictions) -> np.ndarray:
    """The first token of each answer, `[N, 1]`: what is told of patched problems."""
    return said.tokens.reshape(len(said.tokens), -1)[:, :1]


def summarise_mechanism(
    runs: Sequence[Mapping[str, Any]], found: Mapping[tuple[str, int], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns one row an arm: means over seeds, and differences from KD, paired by seed.

    What is about circuits is told of students whose circuits are faithful, and compared where
    those of both are.

    Args:
        runs: one for each student, with `arm` and `seed`.
        found: (arm, seed) → what `Mechanism.measure` returned.
    """
    rows = []
    for arm in dict.fromkeys(run['arm'] for run in runs):
        seeds = [run['seed'] for run in runs if run['arm'] == arm]
        faithful = sum(found[arm, seed]['faithful'] for seed in seeds)
        row = {'arm': arm, 'seeds': len(seeds), 'faithful': faithful}
        for key, (_, of_circuits) in MEASURES.items():
            row[key] = beside_kd(arm, seeds, _reader(found, key, of_circuits))
        rows.append(row)
    return rows


def _reader(found, key: str, of_circuits: bool) -> Callable[[str, int], float | None]:
    def value(arm: str, seed: int) -> float | None:
        one = found.get((arm, seed))
        if one is None or one[key] is None or (of_circuits and not one['faithful']):
            return None
        return one[key]

    return value
