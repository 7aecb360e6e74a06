"""Protocols: all that decides a study, frozen before it is run, and hashed into its results."""

import dataclasses
import hashlib
import json
from typing import Any

from cdjax.planted.plan import PlanConfig
from cdjax.planted.training import PlantConfig
from cdjax.studies.circuits.config import EVALUATED, TELLING_SIZES
from cdjax.studies.inputs import InputsConfig
from cdjax.studies.settle.verdicts import Hypothesis
from cdjax.studies.teacher import TeacherConfig, TeacherShape
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.objectives import AnySize
from cdjax.training.optimizer import OptimizerConfig

# What experiments/recipes/planted_lookup.flags trains.
LOOKUP_TEACHER = TeacherConfig(
    InputsConfig(task='lookup'),
    TeacherShape(64, 128, 2, 4, 4, 30),
    LanguageModelConfig(OptimizerConfig(1000, 3e-3, 50, 0.1), batch_size=128),
    evaluate_every=500,
    plant=PlantConfig(),
)

# METHOD.md §9: of the circuits that are found, at the causal size, on unseen problems.
GATES = (
    Hypothesis('auroc', 'AUROC among living neurons', 0.95),
    Hypothesis('precision', 'precision at the causal size', 0.9),
    Hypothesis('recall', 'recall at the causal size', 0.9),
    Hypothesis('nmi', 'NMI of the classes', 0.9),
    Hypothesis('selectivity', 'selectivity of the specific part, in probability', 0.8),
    Hypothesis('own_minus_one', 'own circuit minus one mask, in probability', 0.3),
    Hypothesis('wrong', "probability with another class's circuit", 0.2, above=False),
)
NO_CLASSES = Hypothesis(
    'no_classes', 'selectivity that is found where nothing is planted', 0.1, above=False
)
# Of null teachers whose one circuit is necessary to all problems alike.
NEEDED = Hypothesis('none', 'probability of the answer without any neuron', 0.1, above=False)
NO_CLASSES_OF_ONE = Hypothesis(
    'no_classes', 'selectivity that is found where one circuit serves all', 0.1, above=False
)


@dataclasses.dataclass(frozen=True)
class PlantedProtocol:
    """The positive and the negative control.

    Attributes:
        teacher: the planted teacher, of seed 0.
        teachers: seeds of planted teachers: of weights, batches, and the choice of neurons.
        nulls: seeds of teachers of the same problems in which nothing tells classes apart.
        discovery: the search, whose classes are those of the teacher.
        seeds: of the search.
        gates: what its circuits must reach.
        no_classes: what is asked on null teachers.
        problems: of unseen forms that are answered, at most.
        null_shared: neurons a layer that are planted in null teachers, as one circuit which all
            problems need.
        needed: what is asked on null teachers without any neuron, if anything.
    """

    teacher: TeacherConfig = dataclasses.field(default_factory=lambda: LOOKUP_TEACHER)
    teachers: tuple[int, ...] = (0, 1, 2, 3, 4)
    nulls: tuple[int, ...] = (0, 1, 2)
    discovery: DiscoveryConfig = DiscoveryConfig(objective=AnySize())
    seeds: tuple[int, ...] = (0, 1, 2)
    gates: tuple[Hypothesis, ...] = GATES
    no_classes: Hypothesis = NO_CLASSES
    problems: int = EVALUATED
    null_shared: int = 0
    needed: Hypothesis | None = None

    def planted(self, seed: int) -> TeacherConfig:
        """Returns the planted teacher of a seed."""
        plan = dataclasses.replace(self.teacher.plant.plan, seed=seed)
        return self._teacher(seed, plan)

    def null(self, seed: int) -> TeacherConfig:
        """Returns the teacher of a seed in which nothing is planted that tells classes apart."""
        return self._teacher(seed, PlanConfig(self.null_shared, 0, seed))

    def facts(self) -> dict[str, Any]:
        """Returns all of it as an object, without what is off and earlier folders lack."""
        facts = dataclasses.asdict(self)
        if not self.null_shared:
            del facts['null_shared'], facts['needed']
        return facts

    def _teacher(self, seed: int, plan: PlanConfig) -> TeacherConfig:
        plant = dataclasses.replace(self.teacher.plant, plan=plan)
        training = dataclasses.replace(self.teacher.training, seed=seed)
        return dataclasses.replace(self.teacher, plant=plant, training=training)


# The negative control alone, with teachers that need their neurons: what
# experiments/recipes/planted_null_necessary.flags trains.
NULL = PlantedProtocol(
    teachers=(), gates=(), no_classes=NO_CLASSES_OF_ONE, null_shared=24, needed=NEEDED
)

# Options that are younger than protocols whose hashes are published.
_CAME_LATER = (
    *('nuisance', 'spread', 'together', 'null_shared', 'needed', 'weight_grid'),
    'first_ranking',
)

# Arms that are no method: the best of the rankings, and one mask of the size of the union.
ATTRIBUTION, UNION = 'attribution', 'union'
TITLES = {UNION: 'One mask of the size of the union'}


@dataclasses.dataclass(frozen=True)
class Claim:
    """That circuits of one arm keep more of the accuracy than those of another.

    Attributes:
        text: what is claimed, for people.
        arm: key of a method.
        other: likewise, or `ATTRIBUTION` or `UNION`.
        bound: least difference, a part of the problems.
        sizes: at which sizes, shares of the neurons.
    """

    text: str
    arm: str
    other: str
    bound: float
    sizes: tuple[float, ...] = (0.03, 0.05)


CLAIMS = (
    Claim('one mask is no worse than any ranking', 'one_mask', ATTRIBUTION, -0.01, TELLING_SIZES),
    Claim('one mask beats every ranking by 10 points', 'one_mask', ATTRIBUTION, 0.1),
    Claim('learned classes beat one mask by 10 points', 'learned', 'one_mask', 0.1),
    Claim('learned beat random classes by 10 points', 'learned', 'random_classes', 0.1),
    Claim('operator classes beat one mask by 10 points', 'operator_classes', 'one_mask', 0.1),
    Claim('learned beat classes that leak as much', 'learned', 'answer_matched_classes', 0.0),
    Claim('learned classes beat one mask of the union', 'learned', UNION, 0.0),
)


@dataclasses.dataclass(frozen=True)
class ComparisonProtocol:
    """Masks, classes and rankings in one teacher, after the gates.

    Attributes:
        inputs: the teacher, the problems and their split.
        gates: what the search has to pass first.
        discovery: the search; its masks are trained for each ablation.
        trained: methods whose masks are trained beside those of the learned classes.
        attribution: methods that rank neurons for one mask.
        ablations: pairs of an ablation, and the part of the fills that is counterfactual while
            masks are trained for it.
        seeds: of the search.
        sizes: shares of the neurons.
        claims: what is judged, at sizes among these.
        problems: of unseen forms that are answered, at most.
    """

    inputs: InputsConfig = InputsConfig()
    gates: PlantedProtocol = dataclasses.field(default_factory=PlantedProtocol)
    discovery: DiscoveryConfig = DiscoveryConfig(objective=AnySize())
    trained: tuple[str, ...] = (
        'one_mask',
        'random_classes',
        'operator_classes',
        'answer_matched_classes',
    )
    attribution: tuple[str, ...] = (
        'atp',
        'atp_grad_drop',
        'integrated_gradients',
        'relp',
        'deviation',
    )
    ablations: tuple[tuple[str, float], ...] = (('mean', 0.0), ('counterfactual', 0.5))
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    sizes: tuple[float, ...] = TELLING_SIZES
    claims: tuple[Claim, ...] = CLAIMS
    problems: int = EVALUATED

    def facts(self) -> dict[str, Any]:
        """Returns all of it as an object, with the gates as they tell themselves."""
        return dataclasses.asdict(self) | {'gates': self.gates.facts()}


def protocol_hash(protocol: Any) -> str:
    """Returns a hash of all that a protocol decides, 16 hexadecimal digits."""
    text = json.dumps(_decided(dataclasses.asdict(protocol)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _decided(value: Any) -> Any:
    """Returns what a protocol decides, without options that came later and are off."""
    if isinstance(value, dict):
        off = {name for name in _CAME_LATER if not value.get(name)}
        return {name: _decided(part) for name, part in value.items() if name not in off}
    if isinstance(value, list | tuple):
        return [_decided(part) for part in value]
    return value
