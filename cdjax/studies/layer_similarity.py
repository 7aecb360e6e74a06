"""How alike the layers of the teacher and of its students represent problems: a matrix of CKA."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.inference.rows import map_rows
from cdjax.losses.cka import u_center
from cdjax.losses.numerics import center, gram_matrix, product
from cdjax.models import Capture, Llama, load_huggingface
from cdjax.run.results import stored
from cdjax.studies.circuits import CircuitStudyConfig, unseen_rows
from cdjax.studies.run import Run

MAX_PROBLEMS = 512  # the Gram matrices of all layers are held at once


def study_layer_similarity(
    run: Run, students: Mapping[str, str], config: CircuitStudyConfig
) -> dict[str, Any]:
    """Compares every layer of the teacher with every layer of itself and of its students, once.

    Args:
        run: the run.
        students: arm → name among `students/`.
        config: which problems are measured.

    Returns:
        What `results/layer_similarity.json` holds, see docs/artefacts.md.
    """

    def compute():
        rows = unseen_rows(run.inputs.split, config)[:MAX_PROBLEMS]
        teacher = layer_grams(run, run.teacher, rows)
        found = {}
        for arm, name in students.items():
            student = load_huggingface(run.places.student(name), mesh=run.mesh)
            found[arm] = layer_cka(teacher, layer_grams(run, student, rows))
        itself = layer_cka(teacher, teacher)
        return {'problems': len(rows), 'teacher': itself, 'students': found}

    return stored(run.places.result('layer_similarity'), compute)


def layer_grams(run: Run, model: Llama, rows: np.ndarray) -> jax.Array:
    """Returns the U-centred Gram matrix of the neurons of each layer, float32 `[L, N, N]`."""
    problems = run.inputs.dataset[rows]
    columns = {'tokens': problems.tokens, 'lengths': problems.lengths}
    neurons_NxLxF = map_rows(_answer_neurons, model, columns, **run.passes)
    return jnp.stack([_gram(features) for features in neurons_NxLxF.swapaxes(0, 1)])


def layer_cka(first: jax.Array, second: jax.Array) -> list[list[float]]:
    """Returns the debiased CKA of each two Gram matrices, `[first][second]`.

    Args:
        first: U-centred, `[L, N, N]`.
        second: U-centred, `[M, N, N]`.
    """
    return np.asarray(_cka(first, second), float).tolist()


@jax.jit
def _cka(first, second):
    norm = lambda grams: jnp.sqrt(product('lij,lij->l', grams, grams))
    scale = norm(first)[:, None] * norm(second)[None]
    return product('lij,mij->lm', first, second) / jnp.where(scale > 0, scale, 1.0)


@jax.jit
def _gram(features_NxF):
    weights = jnp.ones(len(features_NxF))
    centred = center(features_NxF.astype(jnp.float32), weights)
    return u_center(gram_matrix(centred), weights)


def _answer_neurons(model: Llama, rows: Mapping[str, jax.Array]) -> jax.Array:
    capture = Capture('neurons', positions=rows['lengths'] - 1)
    _, activations = model(rows['tokens'], capture=(capture,), logits_at=())
    return jnp.swapaxes(activations['neurons'], 0, 1)[:, :, 0]
