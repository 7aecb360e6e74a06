"""Stage 1: classes of problems, and for each class the neurons that solve it.

One classifier reads the teacher's encoding of a problem; one mask generator for each model turns
its class into a mask over FFN neurons; the model, with everything outside the mask ablated, has
to answer as the whole model does. With two models (joint discovery) class k of one is class k of
the other, so that their circuits are paired by construction.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cdjax.circuits.ablation import keep_only
from cdjax.circuits.circuit import Circuit, model_hash
from cdjax.circuits.classifier import (
    Classifier,
    Encoding,
    standardization,
    standardize,
    straight_through_gumbel_softmax,
)
from cdjax.circuits.masks import MaskGenerator, binarize
from cdjax.data import Dataset, batch_indices
from cdjax.errors import InputError, check_finite, check_seed
from cdjax.inference.activations import answer_logits_and_activations
from cdjax.inference.encodings import encode
from cdjax.inference.means import check_one_length, neuron_means
from cdjax.losses import (
    CausalDiscoveryWeights,
    DiscoveryWeights,
    causal_discovery_loss,
    discovery_loss,
)
from cdjax.models import Llama, LlamaConfig
from cdjax.models.flops import forward_flops
from cdjax.parallel.mesh import TENSOR, check_batch, put_batch, replicate, split_neurons
from cdjax.run.options import RunOptions
from cdjax.training.accumulation import (
    accumulate_gradients,
    check_batch_size,
    first_microbatch,
)
from cdjax.training.diagnostics import GradientDoctor, GradientReport
from cdjax.training.loop import Point, TrainState, fit, init_state
from cdjax.training.optimizer import OptimizerConfig, make_optimizer
from cdjax.training.step import jit_step

OBJECTIVES = ('causal', 'published')

OPTIMIZER = OptimizerConfig(500, 2e-2, warmup_steps=20, weight_decay=0.0)

# Masks are as wide as the neurons of a model, so they are split like them.
RULES = (
    (r'generators\.[^.]+\.neurons$', P(None, TENSOR)),
    (r'generators\.[^.]+\.bias$', P(TENSOR)),
    (r'', P()),
)


@dataclasses.dataclass(frozen=True)
class DiscoveryConfig:
    """How circuits are searched for.

    Attributes:
        optimizer: AdamW and its schedule; its `steps` are the steps of the discovery. What it
            leaves open is as in `OPTIMIZER`.
        num_classes: latent classes (K).
        density: neurons of a circuit as a share of all (π), which is also the size it is cut to.
        objective: 'causal' (the corrected one) or 'published' (the text's five terms).
        weights: of the terms; `CausalDiscoveryWeights` or `DiscoveryWeights`, the defaults of the
            objective if None.
        cosine: take similarity and overlap of the published objective in their cosine forms.
        per_layer: ask for the density in each layer rather than over all.
        temperature: τ of the Gumbel-softmax.
        hidden: width of the mask generator.
        encoding: what the classifier reads.
        sparsity_from: part of the steps after which the sparsity term, which makes masks binary,
            is faded in.
        batch_size: problems a step.
        microbatches: parts of a batch that are computed one after the other, in the memory of one;
            similarity and usage then compare the problems of a part.
        remat: what the backward pass through a model keeps, a key of
            `cdjax.models.llama.REMAT_POLICIES`.
        seed: of the initial weights, of the order of the problems and of the Gumbel noise.
    """

    optimizer: OptimizerConfig = OPTIMIZER
    num_classes: int = 4
    density: float = 0.2
    objective: str = 'causal'
    weights: CausalDiscoveryWeights | DiscoveryWeights | None = None
    cosine: bool = False
    per_layer: bool = False
    temperature: float = 1.0
    hidden: int = 64
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    sparsity_from: float = 0.5
    batch_size: int = 128
    microbatches: int = 1
    remat: str = 'none'
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, 'optimizer', self.optimizer.or_else(OPTIMIZER))
        if self.num_classes < 1:
            raise InputError(f'num_classes={self.num_classes}: at least 1 class is needed')
        if not 0 < self.density < 1:
            raise InputError(f'density={self.density}: a share of the neurons, above 0 and below 1')
        if self.objective not in OBJECTIVES:
            raise InputError(
                f'objective={self.objective!r} is unknown; choose {" or ".join(OBJECTIVES)}'
            )
        check_finite(temperature=self.temperature, **vars(self.term_weights()))
        if not self.temperature > 0:
            raise InputError(f'temperature={self.temperature} must be above 0')
        if not 0 <= self.sparsity_from <= 1:
            raise InputError(f'sparsity_from={self.sparsity_from}: a part of the steps, 0 to 1')
        if self.hidden < self.num_classes:
            raise InputError(
                f'hidden={self.hidden} is below the {self.num_classes} classes, whose masks could '
                f'then not differ freely: choose at least {self.num_classes}'
            )
        check_batch_size(self.batch_size, self.microbatches)
        if self.batch_size < self.least_batch:
            raise InputError(
                f'batch_size={self.batch_size} leaves classes without a pair of problems: choose '
                f'at least {self.least_batch} for {self.num_classes} classes in '
                f'{self.microbatches} microbatches'
            )
        check_seed(seed=self.seed)

    @property
    def least_batch(self) -> int:
        """Problems of the smallest batch: two for each class in each part of it."""
        return 2 * self.num_classes * self.microbatches

    def term_weights(self) -> CausalDiscoveryWeights | DiscoveryWeights:
        """The weights in force."""
        if self.weights is not None:
            return self.weights
        return CausalDiscoveryWeights() if self.objective == 'causal' else DiscoveryWeights.unit()


def discover(
    models: Mapping[str, Llama],
    dataset: Dataset,
    rows: np.ndarray,
    config: DiscoveryConfig,
    *,
    mesh: Mesh,
    classes: np.ndarray | None = None,
    description: str = 'discover',
    workdir: epath.PathLike | None = None,
    options: RunOptions = RunOptions(),
) -> tuple[dict[str, Circuit], list[Point]]:
    """Searches circuits in one model, or in several at once with classes in common.

    Args:
        models: name → model; the first one's activations are what the classifier reads.
        dataset: N problems; each is given a class.
        rows: int, the problems to learn from.
        config: the search.
        mesh: the mesh.
        classes: int `[N]`, classes that are fixed beforehand (a baseline, or known structure); no
            classifier is trained then. Their number must be `config.num_classes`.
        description: name on the progress bar.
        workdir: folder of checkpoints and metrics; a killed search continues from it.
        options: what is written and checked on the way.

    Returns:
        name → `Circuit`, cut to exactly `density` of the neurons; and the log points of `fit`.

    Raises:
        InputError: a density that is less than one neuron, or prompts of several lengths.
        cdjax.training.diagnostics.GradientError: a weighted term that trains nothing.
    """
    shapes = {name: model.config for name, model in models.items()}
    check_discovery(shapes, dataset, config, mesh=mesh)
    if classes is not None and classes.max() >= config.num_classes:
        raise ValueError(f'class {classes.max()} of {config.num_classes} classes')

    # -- What is the same at every step: computed once, kept on the host -----------------------
    encoder = next(iter(models.values()))
    passes = {'mesh': mesh, 'tokens_per_pass': options.tokens_per_pass}
    encodings = encode(encoder, dataset, config.encoding, **passes)
    mean, inverse_deviation = standardization(encodings[rows])
    encodings = (encodings - mean) * inverse_deviation
    learned = dataset[rows]
    stores = {
        name: _build_store(
            model, learned, config, description=f'{description}: {name} activations', **passes
        )
        for name, model in models.items()
    }
    fills = {name: neuron_means(model, learned, **passes) for name, model in models.items()}
    frozen = {
        name: {'model': model, 'fill': split_neurons(fills[name], mesh)}
        for name, model in models.items()
    }

    # -- Training -----------------------------------------------------------------------------
    tx = make_optimizer(config.optimizer)
    width = encodings.shape[1] if classes is None else None
    init_params = lambda key: make_params(key, shapes, width, config)
    state = init_state(init_params, tx, jax.random.key(config.seed), mesh, rules=RULES)

    def batch_at(step: int) -> dict[str, Any]:
        index = batch_indices(np.arange(len(rows)), config.batch_size, seed=config.seed, step=step)
        batch = {
            'tokens': learned.tokens[index],
            'lengths': learned.lengths[index],
            'stores': {
                name: {key: value[index] for key, value in store.items()}
                for name, store in stores.items()
            },
        }
        if classes is None:
            return batch | {'encoding': encodings[rows[index]]}
        return batch | {'classes': np.asarray(classes[rows[index]], np.int32)}

    doctor = gradient_doctor(state.params, config)

    def diagnose(state: TrainState, batch: dict[str, Any]) -> GradientReport:
        part = put_batch(first_microbatch(batch, config.microbatches), mesh)
        return doctor(state.params, frozen, part, state.key, state.step)

    step = jit_step(make_step(tx, config), state)
    state, history = fit(
        lambda state, batch: step(state, batch, frozen),
        state,
        batch_at,
        steps=config.optimizer.steps,
        mesh=mesh,
        description=description,
        workdir=workdir,
        options=options,
        diagnose=diagnose,
        tokens_per_step=config.batch_size * learned.tokens.shape[1] * len(models),
        flops_per_step=_useful_flops(models.values(), learned.tokens.shape[1], config),
    )

    # -- The artefact ---------------------------------------------------------------------------
    classifier = {}
    if classes is None:
        module = state.params['classifier']
        weight, bias = np.asarray(module.weight[...]), np.asarray(module.bias[...])
        classes = np.argmax(encodings @ weight + bias, axis=1)
        classifier = {
            'weight': weight,
            'bias': bias,
            'mean': mean,
            'inverse_deviation': inverse_deviation,
        }
    circuits = {}
    for name, generator in state.params['generators'].items():
        with jax.set_mesh(mesh):  # replicated, so that each process holds all of them
            scores = np.asarray(replicate(jax.nn.sigmoid(generator()), mesh), np.float32)
        circuits[name] = Circuit(
            masks=binarize(scores, circuit_size(config, shapes[name])),
            scores=scores,
            fill=fills[name],
            assignments=np.asarray(classes, np.int32),
            classifier=classifier,
            encoding=config.encoding,
            info={
                'model': model_hash(models[name]),
                'encoder': next(iter(models)),
                'data': dataset.hash,
                'rows': learned.hash,
                'config': dataclasses.asdict(config),
            },
        )
    return circuits, history


def check_discovery(
    shapes: Mapping[str, LlamaConfig],
    dataset: Dataset,
    config: DiscoveryConfig,
    *,
    mesh: Mesh,
    batch_flag: str = 'batch_size',
) -> None:
    """Raises InputError for all that `discover` refuses; to be asked before a model is loaded.

    Args:
        shapes: name → shape of each model; the first one's activations are what is read.
        dataset: the problems.
        config: the search.
        mesh: the mesh.
        batch_flag: the name that the user knows the size of a batch by.
    """
    check_batch(config.batch_size, mesh, microbatches=config.microbatches, name=batch_flag)
    config.encoding.check(next(iter(shapes.values())), dataset.tokens.shape[1])
    check_one_length(dataset)
    for name, shape in shapes.items():
        if circuit_size(config, shape) < 1:
            raise InputError(f'density={config.density} is less than one neuron of the {name}')


def circuit_size(config: DiscoveryConfig, shape: LlamaConfig) -> int:
    """Returns the number of neurons that a circuit of a model is cut to."""
    return round(config.density * shape.num_neurons)


def make_params(
    key: jax.Array, shapes: Mapping[str, LlamaConfig], width: int | None, config: DiscoveryConfig
) -> dict[str, Any]:
    """Returns the first parameters: a mask generator for each model, and the classifier.

    Args:
        key: PRNG key.
        shapes: name → shape of each model.
        width: features of an encoding (E); None where the classes are fixed beforehand.
        config: the search.
    """
    keys = jax.random.split(key, len(shapes) + 1)
    generators = {
        name: MaskGenerator(
            config.num_classes,
            shape.num_layers,
            shape.intermediate_size,
            model_key,
            hidden=config.hidden,
        )
        for (name, shape), model_key in zip(shapes.items(), keys[1:], strict=True)
    }
    if width is None:
        return {'generators': generators}
    return {'generators': generators, 'classifier': Classifier(width, config.num_classes, keys[0])}


def make_step(tx: optax.GradientTransformation, config: DiscoveryConfig):
    """Returns the step `(state, batch, frozen) -> (state, metrics)`, to be jitted by `jit_step`.

    `frozen` holds for each model its weights and `fill [L, T, F]`; a batch holds `tokens`,
    `lengths`, `encoding [B, E]` or `classes [B]`, and for each model its stored `logits [B, V]`
    and `activations [B, D]`.
    """

    def loss(params, batch, frozen, weights):
        terms = discovery_terms(params, frozen, batch, config)
        total = sum(weights.get(name, 0.0) * term for name, term in terms.items())
        return total, terms

    gradients = accumulate_gradients(jax.value_and_grad(loss, has_aux=True), config.microbatches)

    def step(state: TrainState, batch, frozen):
        key = jax.random.fold_in(state.key, state.step)
        weights = _faded(config, state.step)

        batch = with_noise(batch, key, config)
        (value, terms), grads = gradients(state.params, batch, frozen, weights)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {'loss': value, **terms, 'gradient': optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return step


def with_noise(batch, key: jax.Array, config: DiscoveryConfig):
    """Returns the batch with the Gumbel `noise [B, K]` that samples its classes, where learned.

    It is drawn for the whole batch, so that its microbatches sample what the whole would.
    """
    if 'classes' in batch:
        return batch
    shape = (len(batch['encoding']), config.num_classes)
    return batch | {'noise': jax.random.gumbel(key, shape)}


def discovery_terms(params, frozen, batch, config: DiscoveryConfig) -> dict[str, jax.Array]:
    """Returns the terms of the objective before weighting, each the mean over the models.

    Where classes are learned, `batch` is what `with_noise` returns.
    """
    if 'classes' in batch:
        assignments_BxK = jax.nn.one_hot(batch['classes'], config.num_classes)
        probabilities_BxK = assignments_BxK
    else:
        logits_BxK = params['classifier'](batch['encoding'])
        probabilities_BxK = jax.nn.softmax(logits_BxK)
        assignments_BxK = straight_through_gumbel_softmax(
            batch['noise'], logits_BxK, config.temperature
        )

    collected = []
    for name, generator in params['generators'].items():
        masks_KxLxF = jax.nn.sigmoid(generator())
        store, model = batch['stores'][name], frozen[name]['model']
        if config.objective == 'published':
            flat_KxD = masks_KxLxF.reshape(config.num_classes, -1)
            _, terms = discovery_loss(
                store['activations'],
                assignments_BxK,
                flat_KxD,
                target=config.density,
                normalize=config.cosine,
            )
        else:
            # A product with the one-hot rows, not a lookup: it carries the classifier's gradient.
            masks_BxLxF = jnp.einsum(
                'bk,klf->blf', assignments_BxK, masks_KxLxF, precision=jax.lax.Precision.HIGHEST
            )

            def answer(masks_BxLxF, model=model, fill_LxTxF=frozen[name]['fill']):
                edits = {'neurons': keep_only(masks_BxLxF, fill_LxTxF[:, None])}
                at = batch['lengths'] - 1
                return model(batch['tokens'], edits=edits, logits_at=at, remat=config.remat)[0]

            _, terms = causal_discovery_loss(
                store['activations'],
                probabilities_BxK,
                assignments_BxK,
                masks_KxLxF,
                full_logits=store['logits'],
                circuit_logits=answer(masks_BxLxF),
                complement_logits=(
                    answer(1 - masks_BxLxF) if config.term_weights().completeness else None
                ),
                weights=config.term_weights(),
                target=config.density,
                per_layer=config.per_layer,
                standardized=True,
            )
        collected.append(terms)
    return {name: sum(t[name] for t in collected) / len(collected) for name in collected[0]}


def _faded(config: DiscoveryConfig, step: jax.Array) -> dict[str, jax.Array]:
    """Returns the weights at a step; sparsity is faded in over what is left of the training."""
    weights = dict(vars(config.term_weights()))
    if config.objective == 'causal':
        start = config.sparsity_from * config.optimizer.steps
        rest = max(config.optimizer.steps - start, 1.0)
        weights['sparsity'] = weights['sparsity'] * jnp.clip((step - start) / rest, 0.0, 1.0)
    return weights


def _useful_flops(models: Iterable[Llama], length: int, config: DiscoveryConfig) -> int | None:
    """Returns the FLOPs of the ablated models in a step; None where the objective runs none.

    Once forward, and once backward to the masks: frozen weights take no gradient.
    """
    if config.objective == 'published':
        return None
    passes = 2 if config.term_weights().completeness else 1
    rows = config.batch_size
    return sum(2 * passes * forward_flops(m.config, rows, length, logits=rows) for m in models)


def _build_store(model, dataset, config, **passes) -> dict[str, np.ndarray]:
    """Returns what the frozen model says: `logits [N, V]` and `activations [N, D]`."""
    logits, neurons_NxLxF = answer_logits_and_activations(model, dataset, **passes)
    activations = neurons_NxLxF.reshape(len(dataset), -1)
    if config.objective == 'causal':
        standardize(activations)
    return {'logits': logits, 'activations': activations}


def gradient_doctor(params: Any, config: DiscoveryConfig) -> GradientDoctor:
    """Returns the doctor of a discovery: `doctor(params, frozen, batch, key, step)`.

    Args:
        params: what `make_params` returns; tells whether there is a classifier to reach.
        config: the search. Weights are taken as they are at the end, when all are faded in.
    """
    weights = dict(vars(config.term_weights()))
    learned = 'classifier' in params
    if not learned:
        weights['usage'] = 0.0
    if not weights.get('completeness', 1.0):
        weights.pop('completeness')
    single = config.num_classes == 1
    task = 'faithfulness' if config.objective == 'causal' else 'similarity'
    groups = [f'generators.{name}' for name in params['generators']]
    if learned:
        groups.append('classifier')

    def terms(params, frozen, batch, key, step):
        batch = with_noise(batch, jax.random.fold_in(key, step), config)
        return discovery_terms(params, frozen, batch, config)

    return GradientDoctor(
        terms,
        task=task,
        weights=weights,
        groups=groups,
        allow_zero={'usage': 'one class', 'overlap': 'one class'} if single else {},
        reaches={} if single else {task: groups},
    )
