"""What decides a discovery, and what is refused before a weight is loaded."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.classifier import Encoding
from cdjax.circuits.masks import log_ranks
from cdjax.data import Dataset
from cdjax.errors import InputError, check_finite, check_seed
from cdjax.inference.means import check_one_length
from cdjax.models import LlamaConfig
from cdjax.parallel.mesh import check_batch
from cdjax.training.accumulation import check_batch_size
from cdjax.training.memory import check_memory, least_discovery_bytes
from cdjax.training.objectives import AnySize, Objective
from cdjax.training.optimizer import OptimizerConfig, Suited

STEPS = 700
# Host memory that logits of all problems may take before they are asked for again at each step.
STORED_BYTES = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class DiscoveryConfig:
    """How circuits are searched for.

    Attributes:
        optimizer: AdamW and its schedule; its `steps` are the steps of the discovery, its learning
            rate is that of the masks. What it leaves open suits the objective.
        num_classes: latent classes (K).
        objective: what masks are trained for, one of `cdjax.training.objectives.OBJECTIVES`.
        classifier_learning_rate: of the classifier, at its peak.
        temperature: τ of the Gumbel-softmax.
        encoding: what the classifier reads.
        batch_size: problems a step.
        microbatches: parts of a batch that are computed one after the other, in the memory of one;
            terms that compare problems then compare those of a part.
        remat: what the backward pass through a model keeps, a key of
            `cdjax.models.llama.REMAT_POLICIES`.
        recompute_logits: ask the whole model at each step rather than store what it says of all
            problems, 4 bytes for each of them and token of the vocabulary; None to do so where that
            would be more than `STORED_BYTES`. Of answers of several tokens nothing is stored.
        first_ranking: key of the method whose ranking of a model's neurons masks start from, see
            `cdjax.circuits.methods.first_ranking`; from small random scores if None.
        least_accuracy: of a model on these problems; one that cannot do them has no circuits for
            them.
        seed: of the initial weights, of the order of the problems and of all noise.
    """

    optimizer: OptimizerConfig = OptimizerConfig(STEPS)
    num_classes: int = 4
    objective: Objective = dataclasses.field(default_factory=AnySize)
    classifier_learning_rate: float = 0.01
    temperature: float = 1.0
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    batch_size: int = 256
    microbatches: int = 1
    remat: str = 'none'
    recompute_logits: bool | None = None
    first_ranking: str | None = None
    least_accuracy: float = 0.1
    seed: int = 0

    def __post_init__(self):
        suited = Suited(self.objective.learning_rate, 0.0, warmup_steps=20)
        object.__setattr__(self, 'optimizer', self.optimizer.or_else(suited))
        if self.num_classes < 1:
            raise InputError(f'num_classes={self.num_classes}: at least 1 class is needed')
        check_finite(temperature=self.temperature, **vars(self.objective.weights))
        try:
            hash(self.objective)  # by which searches that are alike share their programs
        except TypeError as error:
            raise InputError(
                f'objective={self.objective.key}: {error}; make it and its weights frozen '
                'dataclasses of Python numbers'
            ) from error
        for name in ('temperature', 'classifier_learning_rate'):
            if not getattr(self, name) > 0:
                raise InputError(f'{name}={getattr(self, name)} must be above 0')
        if not 0 <= self.least_accuracy <= 1:
            raise InputError(f'least_accuracy={self.least_accuracy}: an accuracy, 0 to 1')
        check_batch_size(self.batch_size, self.microbatches)
        self.objective.check(self.num_classes)
        if self.batch_size < self.least_batch:
            raise InputError(
                f'batch_size={self.batch_size} is too small for the terms of the '
                f'{self.objective.key} objective: choose at least {self.least_batch} for '
                f'{self.num_classes} classes in {self.microbatches} microbatches'
            )
        check_seed(seed=self.seed)

    def stores(self, shape: LlamaConfig, problems: int, answer_tokens: int = 1) -> tuple[str, ...]:
        """Returns what is stored of a model and each problem: `logits`, `activations` or nothing.

        Args:
            shape: of the model.
            problems: those that are learned from.
            answer_tokens: tokens of the longest answer.
        """
        again = self.recompute_logits
        if again is None:
            again = 4 * problems * shape.vocab_size > STORED_BYTES
        left_out = 'logits' if again or answer_tokens > 1 else None
        return tuple(kind for kind in self.objective.stores if kind != left_out)

    def asks_again(self, stores: tuple[str, ...]) -> bool:
        """Whether a step asks the whole model, whose logits it reads and `stores` lacks."""
        return 'logits' in self.objective.stores and 'logits' not in stores

    def require_accuracy(self, name: str, accuracy: float) -> None:
        """Raises InputError where a model answers less than `least_accuracy` of the problems."""
        if accuracy < self.least_accuracy:
            raise InputError(
                f'the {name} answers {accuracy:.1%} of these problems, and circuits are searched '
                f'for from {self.least_accuracy:.1%} on: train it for them first '
                '(experiments.train_teacher --init), choose problems that it can do, or set '
                'least_accuracy=0 to search all the same'
            )

    def gradient_tokens(self, length: int, layers: int) -> int:
        """Returns tokens whose gradient through a whole model fits where a step of the search does.

        Such as attributions take it: nothing of it is recomputed, so that of a search which
        recomputes its layers one layer's share of the tokens has room.

        Args:
            length: tokens of a problem.
            layers: of the model.
        """
        rows = self.batch_size // self.microbatches
        return max(length, rows * length // (1 if self.remat == 'none' else layers))

    @property
    def least_batch(self) -> int:
        """Problems of the smallest batch that has room for the objective's terms."""
        return self.objective.least_rows(self.num_classes) * self.microbatches


def check_discovery(
    shapes: Mapping[str, LlamaConfig],
    dataset: Dataset,
    config: DiscoveryConfig,
    *,
    mesh: Mesh,
    first_scores: Mapping[str, np.ndarray] | None = None,
    batch_flag: str = 'batch_size',
) -> None:
    """Raises InputError for all that `discover` refuses; to be asked before a model is loaded.

    Args:
        shapes: name → shape of each model; the first one's activations are what is read.
        dataset: the problems.
        config: the search.
        mesh: the mesh.
        first_scores: as for `discover`.
        batch_flag: the name that the user knows the size of a batch by.
    """
    check_batch(config.batch_size, mesh, microbatches=config.microbatches, name=batch_flag)
    rows = config.batch_size // config.microbatches
    length, ablated = dataset.tokens.shape[1], bool(config.objective.passes)
    step = {'ablated': ablated, 'remat': config.remat}
    needed = max(least_discovery_bytes(s, rows, length, **step) for s in shapes.values())
    check_memory(needed, mesh, batch_size=config.batch_size, name=batch_flag)
    config.encoding.check(next(iter(shapes.values())), dataset.prompt_columns)
    check_one_length(dataset)
    if config.objective.single_answers:
        dataset.require_single_answers(f'objective={config.objective.key}')
    for name, shape in shapes.items():
        config.objective.check_shape(shape, name)
        if circuit_size(config, shape) < 1:
            raise InputError(
                f'density={config.objective.density} is less than one neuron of the {name}'
            )
    if config.first_ranking and not first_scores:  # of the same shape, once there is a model
        first_scores = {
            name: np.zeros((1, shape.num_layers, shape.intermediate_size))
            for name, shape in shapes.items()
        }
    first = ranked_first_scores(first_scores or {}, shapes, config.num_classes)
    for name, scores in first.items():
        init = lambda key, name=name, scores=scores: config.objective.init(
            key, shapes[name], config.num_classes, scores
        )
        try:
            jax.eval_shape(init, jax.random.key(0))
        except InputError as error:  # not every objective can start from scores
            if config.first_ranking is None:
                raise
            raise InputError(f'first_ranking={config.first_ranking}: {error}') from error


def ranked_first_scores(
    given: Mapping[str, np.ndarray], shapes: Mapping[str, LlamaConfig], num_classes: int
) -> dict[str, np.ndarray]:
    """Returns rankings on the scale that masks start from, `[K, L, F]` for each model named."""
    first = {}
    for name, scores in given.items():
        size = (shapes[name].num_layers, shapes[name].intermediate_size)
        if scores.shape not in ((1, *size), (num_classes, *size)):
            raise InputError(
                f'first_scores of the {name} have shape {scores.shape}: expected '
                f'{(num_classes, *size)}, or 1 in place of {num_classes} for all classes alike'
            )
        first[name] = np.broadcast_to(log_ranks(scores), (num_classes, *size))
    return first


def circuit_size(config: DiscoveryConfig, shape: LlamaConfig) -> int:
    """Returns the number of neurons that a circuit of a model is cut to."""
    return round(config.objective.density * shape.num_neurons)
