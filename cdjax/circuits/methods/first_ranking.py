"""The ranking that masks start from, where a search asks for that of another method."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.methods.method import Context, Request
from cdjax.circuits.methods.registry import METHODS
from cdjax.data import Dataset
from cdjax.errors import InputError, renamed
from cdjax.inference.means import neuron_means
from cdjax.models import Llama
from cdjax.models.config import LlamaConfig
from cdjax.run.options import RunOptions
from cdjax.run.progress import progress
from cdjax.training.discovery import DiscoveryConfig


def check_first_ranking(
    config: DiscoveryConfig, dataset: Dataset, shapes: Iterable[LlamaConfig]
) -> None:
    """Raises InputError for a ranking that cannot be; to be asked before a model is loaded.

    Args:
        config: the search.
        dataset: the problems.
        shapes: of the models that are searched.
    """
    key = config.first_ranking
    if key is None:
        return
    # Of methods that train nothing, `learned` has scores where there are circuits already.
    rankings = [k for k, m in METHODS.items() if m.scores and not m.trains and k != 'learned']
    if key not in rankings:
        raise InputError(
            f'first_ranking={key} ranks no neurons before masks are trained: choose from '
            f'{", ".join(rankings)}'
        )
    check = METHODS[key].check
    if check is None:
        return
    with renamed({'methods': 'first_ranking'}):
        for shape in shapes:
            check(Request(1, dataset, shape, None))


def first_rankings(
    models: Mapping[str, Llama],
    dataset: Dataset,
    rows: np.ndarray,
    config: DiscoveryConfig,
    *,
    mesh: Mesh | None,
    options: RunOptions = RunOptions(),
) -> dict[str, np.ndarray] | None:
    """Returns name of each model → scores float32 `[1, L, F]`; None where masks start from nothing.

    One ranking for all classes, by what ablating each neuron to its mean would do to the problems
    that are searched, so that which classes there are is left to the search.

    Args:
        models: name → model.
        dataset: the problems.
        rows: int, those that are searched; nothing is read of the others.
        config: the search.
        mesh: the mesh; one device if None.
        options: of passes.
    """
    if config.first_ranking is None:
        return None
    score = METHODS[config.first_ranking].scores
    alike, length = np.zeros(len(dataset), np.int32), dataset.tokens.shape[1]
    passes = {'mesh': mesh, 'tokens_per_pass': options.tokens_per_pass}
    rankings = {}
    with progress(len(models), f'first ranking: {config.first_ranking}', unit='model') as bar:
        for name, model in models.items():
            tokens = config.gradient_tokens(length, model.config.num_layers)
            tokens = min(tokens, options.tokens_per_pass)
            context = Context(
                neuron_means(model, dataset[rows], **passes),
                seed=config.seed,
                mesh=mesh,
                options=dataclasses.replace(options, tokens_per_pass=tokens),
            )
            rankings[name] = score(model, dataset, rows, alike, context=context)
            bar.update()
    return rankings
