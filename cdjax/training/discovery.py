"""Stage 1: classes of problems, and for each class the neurons that solve it.

One classifier reads the teacher's encoding of a problem; each model has masks over its FFN neurons,
one for each class; the model, with everything outside the mask ablated, has to answer as the whole
model does (what exactly is asked of masks is the objective's business). With two models (joint
discovery) class k of one is class k of the other, so that their circuits are paired by
construction.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit, model_hash
from cdjax.circuits.classifier import Encoding, standardization, standardize
from cdjax.circuits.masks import binarize
from cdjax.data import Dataset, batch_indices
from cdjax.inference.activations import answer_logits_and_activations
from cdjax.inference.encodings import encode
from cdjax.inference.means import neuron_means
from cdjax.inference.predictions import predict
from cdjax.models import Llama
from cdjax.models.flops import forward_flops
from cdjax.parallel.mesh import one_device, put_batch, replicate, split_neurons
from cdjax.run.options import RunOptions
from cdjax.training.accumulation import first_microbatch
from cdjax.training.diagnostics import GradientReport
from cdjax.training.discovery_config import (
    DiscoveryConfig,
    check_discovery,
    circuit_size,
    ranked_first_scores,
)
from cdjax.training.discovery_step import (
    CLASSIFIER,
    MASKS,
    RULES,
    gradient_doctor,
    make_discovery_optimizer,
    make_params,
    make_step,
)
from cdjax.training.log_points import Point
from cdjax.training.loop import fit
from cdjax.training.state import TrainState, jit_init
from cdjax.training.step import jit_step, shared_step, steps_at_once

# A class with less than this part of an even share of the problems has died.
_DEAD = 0.01


def discover(
    models: Mapping[str, Llama],
    dataset: Dataset,
    rows: np.ndarray,
    config: DiscoveryConfig,
    *,
    mesh: Mesh | None = None,
    classes: np.ndarray | None = None,
    first_scores: Mapping[str, np.ndarray] | None = None,
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
        mesh: the mesh; one device if None.
        classes: int `[N]`, classes that are fixed beforehand (a baseline, or known structure); no
            classifier is trained then, and none for one class. Their number must be
            `config.num_classes`.
        first_scores: name → float `[K, L, F]` or `[1, L, F]`, a ranking of neurons to start from,
            such as an attribution's; only the order counts. From nothing if None, which leaves
            seeds independent of each other.
        description: name on the progress bar.
        workdir: folder of checkpoints and metrics; a killed search continues from it.
        options: what is written and checked on the way.

    Returns:
        name → `Circuit`, cut to exactly `density` of the neurons; and the log points of `fit`.

    Raises:
        InputError: what `check_discovery` refuses, or a model that cannot do these problems.
        cdjax.training.diagnostics.GradientError: a weighted term that trains nothing.
    """
    mesh = one_device() if mesh is None else mesh
    shapes = {name: model.config for name, model in models.items()}
    check_discovery(shapes, dataset, config, mesh=mesh, first_scores=first_scores)
    if config.first_ranking and first_scores is None:
        raise ValueError(
            f'first_ranking={config.first_ranking}: pass first_scores, which '
            'cdjax.circuits.methods.first_ranking.first_rankings makes'
        )
    if classes is not None and classes.max() >= config.num_classes:
        raise ValueError(f'class {classes.max()} of {config.num_classes} classes')
    if classes is None and config.num_classes == 1:
        classes = np.zeros(len(dataset), np.int32)
    learned_classes = classes is None

    # -- What is the same at every step: computed once, kept on the host -----------------------
    passes = {'mesh': mesh, 'tokens_per_pass': options.tokens_per_pass}
    learned = dataset[rows]
    stores = {
        name: _build_store(
            model, name, learned, config, description=f'{description}: {name} answers', **passes
        )
        for name, model in models.items()
    }
    fills = {name: neuron_means(model, learned, **passes) for name, model in models.items()}
    frozen = {
        name: {'model': model, 'fill': split_neurons(fills[name], mesh)}
        for name, model in models.items()
    }
    classifier, width = {}, None
    if learned_classes:
        encodings = encode(next(iter(models.values())), dataset, config.encoding, **passes)
        mean, inverse_deviation = standardization(encodings[rows])
        encodings = (encodings - mean) * inverse_deviation
        width = encodings.shape[1]

    # -- Training -----------------------------------------------------------------------------
    first = ranked_first_scores(first_scores or {}, shapes, config.num_classes)
    start = _start_of(_alike(config), shapes, width, mesh, first)
    with jax.set_mesh(mesh):
        state = start(replicate(jax.random.key(config.seed), mesh))

    def batch_at(step: int) -> dict[str, Any]:
        index = batch_indices(np.arange(len(rows)), config.batch_size, seed=config.seed, step=step)
        batch = {
            'tokens': learned.tokens[index],
            'lengths': learned.lengths[index],
            'answers': learned.answers[index],
            'counterfactual_tokens': learned.counterfactual_tokens[index],
            'stores': {
                name: {key: value[index] for key, value in store.items()}
                for name, store in stores.items()
            },
        }
        if learned_classes:
            return batch | {'encoding': encodings[rows[index]]}
        return batch | {'classes': np.asarray(classes[rows[index]], np.int32)}

    alike = _alike(config)
    doctor = gradient_doctor(tuple(models), learned_classes, alike)

    def diagnose(state: TrainState, batch: dict[str, Any]) -> GradientReport:
        part = put_batch(first_microbatch(batch, config.microbatches), mesh)
        return doctor(state.params, frozen, part, state.key, state.step)

    flops = _useful_flops(models.values(), learned, config)
    at_once = 1 if flops is None else steps_at_once(sum(flops.values()), mesh)
    step = shared_step(jit_step, _step_of, alike, state, at_once)
    state, history = fit(
        lambda state, batch: step(state, batch, frozen),
        state,
        batch_at,
        steps=config.optimizer.steps,
        mesh=mesh,
        description=description,
        workdir=workdir,
        options=options,
        facts={'config': config, 'data': learned.hash, 'classes': classes},
        diagnose=diagnose,
        at_once=at_once,
        tokens_per_step=config.batch_size * learned.tokens.shape[1] * len(models),
        flops_per_step=flops,
    )

    # -- The artefact ---------------------------------------------------------------------------
    if learned_classes:
        module = state.params[CLASSIFIER]
        weight, bias = np.asarray(module.weight[...]), np.asarray(module.bias[...])
        classes = np.argmax(encodings @ weight + bias, axis=1)
        classifier = {
            'weight': weight,
            'bias': bias,
            'mean': mean,
            'inverse_deviation': inverse_deviation,
        }
    counts = np.bincount(classes[rows], minlength=config.num_classes)
    _warn_of_dead_classes(counts, description)
    circuits = {}
    for name, masks in state.params[MASKS].items():
        with jax.set_mesh(mesh):  # replicated, so that each process holds all of them
            scores = np.asarray(replicate(config.objective.scores(masks), mesh), np.float32)
        scores = config.objective.ranking(scores)
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
                'class_counts': counts.tolist(),
            },
        )
    return circuits, history


def _alike(config: DiscoveryConfig) -> DiscoveryConfig:
    """Returns the configuration of all whose steps are one program."""
    return dataclasses.replace(
        config,
        encoding=Encoding(),
        recompute_logits=None,
        first_ranking=None,
        least_accuracy=0.0,
        seed=0,
    )


def _start_of(config, shapes, width, mesh, first):
    """Returns the jitted `key -> state` of a search; without rankings one for all alike."""
    if not first:
        return _random_start(config, tuple(shapes.items()), width, mesh)
    return _jit_start(config, shapes, width, mesh, first)


@functools.lru_cache(maxsize=16)
def _random_start(config, shapes, width, mesh):
    return _jit_start(config, dict(shapes), width, mesh, {})


def _jit_start(config, shapes, width, mesh, first):
    K, tx = config.num_classes, make_discovery_optimizer(config)
    init_params = lambda key: make_params(key, shapes, width, config.objective, K, first)
    return jit_init(init_params, tx, mesh, RULES)


def _step_of(config: DiscoveryConfig) -> Callable[..., Any]:
    return make_step(make_discovery_optimizer(config), config)


def _useful_flops(
    models: Iterable[Llama], problems: Dataset, config: DiscoveryConfig
) -> dict[str, int] | None:
    """Returns the FLOPs of the models in a step, by dtype; None where the objective runs none.

    The ablated ones once forward, and once backward to the masks: frozen weights take no gradient.
    """
    objective, rows, length = config.objective, config.batch_size, problems.tokens.shape[1]
    if not objective.passes:
        return None
    logits = rows * problems.answer_tokens
    flops = collections.Counter()
    for model in models:
        again = config.asks_again(_stores(model, problems, config))
        passes = 2 * objective.passes + objective.forward_passes + again
        dtype = model.embed.weight.dtype.name
        flops[dtype] += passes * forward_flops(model.config, rows, length, logits=logits)
    return dict(flops)


def _stores(model: Llama, problems: Dataset, config: DiscoveryConfig) -> tuple[str, ...]:
    return config.stores(model.config, len(problems), problems.answer_tokens)


def _build_store(model, name, dataset, config, **passes) -> dict[str, np.ndarray]:
    """Returns what the objective reads of the frozen model: `logits` and `activations` `[N, ...]`.

    Raises:
        InputError: the model cannot do these problems.
    """
    stores = _stores(model, dataset, config)
    asked, store_logits = 'activations' in stores, 'logits' in stores
    if dataset.answers.ndim > 1 and config.least_accuracy:
        config.require_accuracy(name, predict(model, dataset, **passes).accuracy)
    if dataset.answers.ndim > 1 and not asked:
        return {}
    said, neurons_NxLxF = answer_logits_and_activations(
        model,
        dataset,
        **passes,
        layers=None if asked else (),
        # What it says is needed here to see whether it is right.
        top_k=None if store_logits else (1, 1.0),
    )
    if dataset.answers.ndim == 1:
        answers = np.argmax(said, axis=1) if store_logits else np.asarray(said.indices)[:, 0]
        config.require_accuracy(name, float(np.mean(answers == dataset.answers)))
    store = {'logits': said} if store_logits else {}
    if asked:
        store['activations'] = neurons_NxLxF.reshape(len(dataset), -1)
        if config.objective.standardized:
            standardize(store['activations'])
    return store


def _warn_of_dead_classes(counts: np.ndarray, description: str) -> None:
    """Names the classes that the classifier gives to (almost) no problem."""
    dead = np.flatnonzero(counts < _DEAD * counts.sum() / len(counts))
    if len(dead):
        logging.warning(
            '%s: %d of %d classes died: %s; their masks belong to no problem',
            *(description, len(dead), len(counts)),
            ', '.join(f'class {k} has {counts[k]} problems' for k in dead),
        )
