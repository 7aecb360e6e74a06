"""The methods of a study: checked before a model is loaded, then run on one model."""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.classes import CLASSES, Sorting
from cdjax.circuits.masks import binarize
from cdjax.circuits.methods import EM, LEARNED, METHODS, Context, Request
from cdjax.circuits.methods.learned_masks import train_scores
from cdjax.data import Dataset
from cdjax.errors import InputError
from cdjax.inference.attribution_vectors import attribution_vectors
from cdjax.inference.divergences import circuit_divergences
from cdjax.models import Llama
from cdjax.models.config import LlamaConfig
from cdjax.run.options import RunOptions
from cdjax.run.progress import progress
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.discovery_config import circuit_size


def methods_by_default(*, trained: bool = True) -> tuple[str, ...]:
    """Returns the methods that a study runs where none are named.

    Args:
        trained: with those that train masks of their own.
    """
    return tuple(
        key
        for key, method in METHODS.items()
        if method.by_default and (trained or not method.trains)
    )


def check_methods(
    keys: Iterable[str],
    dataset: Dataset,
    num_classes: int,
    discovery: DiscoveryConfig | None,
    seed: int,
    shape: LlamaConfig,
) -> None:
    """Raises InputError for what a method would refuse; to be asked before a model is loaded.

    Args:
        keys: of the methods.
        dataset: the problems.
        num_classes: of the circuits that are studied, K.
        discovery: how their masks are learned; None where nothing is going to be trained.
        seed: of methods that draw.
        shape: of the model.
    """
    sorting = Sorting(dataset, num_classes, seed)
    for key in keys:
        method = METHODS[key]
        if method.trains and discovery is None:
            raise InputError(
                f'methods={key} trains masks, and only experiments.pipeline does: leave it out '
                'here, or run that'
            )
        if method.check is None:
            continue
        count = num_classes
        if not CLASSES[method.classes].from_learned:
            classes = method.sort(sorting)
            if classes is None:
                continue
            count = int(classes.max()) + 1
        method.check(Request(count, dataset, shape, discovery))


def with_classes(
    keys: Iterable[str], dataset: Dataset, num_classes: int, seed: int
) -> tuple[str, ...]:
    """Returns the methods for whose classes the problems have structure, as far as they tell.

    Args:
        keys: of the methods.
        dataset: the problems.
        num_classes: of the circuits that are studied, K.
        seed: of methods that draw.
    """
    sorting = Sorting(dataset, num_classes, seed)
    asks_model = lambda method: CLASSES[method.classes].from_learned
    there = lambda method: asks_model(method) or method.sort(sorting) is not None
    return tuple(key for key in keys if there(METHODS[key]))


def run_methods(
    keys: Iterable[str],
    model: Llama,
    dataset: Dataset,
    rows: np.ndarray,
    circuit: Circuit,
    *,
    ablation: str,
    seed: int,
    discovery: DiscoveryConfig | None = None,
    mesh: Mesh | None = None,
    workdir: epath.Path | None = None,
    options: RunOptions = RunOptions(),
) -> dict[str, Circuit]:
    """Returns the circuits of each method that scores neurons, at the size of those studied.

    Left out are the circuits studied themselves, methods that draw masks, and those whose classes
    the problems lack.

    Args:
        keys: of the methods.
        model: the model.
        dataset: all problems, in the order of `circuit.assignments`.
        rows: int, the problems to learn from.
        circuit: the circuits that are studied.
        ablation: what the neurons outside a circuit become.
        seed: of methods that draw.
        discovery: how the circuits were learned; None where nothing is to be trained.
        mesh: the mesh; one device if None.
        workdir: folder of the trainings, each in one named for its method.
        options: of trainings and passes.
    """
    context = Context(
        fill=circuit.fill,
        ablation=ablation,
        learned=circuit.scores,
        discovery=discovery,
        seed=seed,
        mesh=mesh,
        workdir=workdir,
        options=options,
    )
    sorting = sort_in(
        model, dataset, rows, circuit.num_classes, context, learned=circuit.assignments
    )
    rankings = {}
    for key in keys:
        method = METHODS[key]
        classes = None if key == LEARNED.key else method.sort(sorting)
        if classes is None or method.scores is None:
            continue
        score = functools.partial(method.scores, model, dataset, rows, classes, context=context)
        if method.trains:  # which tells of its own steps
            scores = score()
        else:
            with progress(1, f'score neurons: {key}', unit='method') as bar:
                scores = score()
                bar.update()
        rankings[key] = dataclasses.replace(
            circuit,
            masks=binarize(scores, circuit.size),
            scores=scores,
            assignments=classes,
            classifier={},
            info=_info(circuit, key),
        )
    return rankings


def sort_in(
    model: Llama,
    dataset: Dataset,
    rows: np.ndarray,
    num_classes: int,
    context: Context,
    *,
    learned: np.ndarray | None = None,
) -> Sorting:
    """Returns what a scheme may look at to sort the problems of a model.

    Args:
        model: the model.
        dataset: N problems.
        rows: int, the problems to learn from.
        num_classes: K.
        context: of the methods; where it has a discovery, schemes may train masks.
        learned: int `[N]`, the classes of circuits that are studied; None where there are none.
    """
    discovery = context.discovery

    def divergences(classes: np.ndarray, at: int) -> np.ndarray:
        scores = train_scores(
            model, dataset, rows, classes, context=context, key=f'{EM.key}_round_{at}'
        )
        masks = binarize(scores, circuit_size(discovery, model.config))
        return circuit_divergences(model, dataset, masks, context.fill, **context.passes)

    return Sorting(
        dataset,
        num_classes,
        context.seed,
        learned,
        rows=rows,
        vectors=functools.partial(
            attribution_vectors, model, dataset, context.fill, **context.passes
        ),
        divergences=None if discovery is None else divergences,
    )


def _info(circuit: Circuit, key: str) -> dict[str, str]:
    """Returns where the circuits of a method come from: whence those that are studied do."""
    own = ('config', 'metrics', 'encoder', 'class_counts')
    return {k: v for k, v in circuit.info.items() if k not in own} | {'method': key}
