"""What ablation costs in memory, by the compiler's own count, at the shapes of a large model.

A fill is a center that an edit scales about, `[L, 1, T, F]`. Written as a shift, `(1 - m) * fill`,
it is dense, `[L, B, T, F]`, for every problem has a mask of its own: that is compared with.
Nothing is loaded and nothing is run. Weights are float32, for the compiler of a CPU would widen
bfloat16 ones within the program, and count them.
"""

import dataclasses
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cdjax.circuits import ablation
from cdjax.inference import predictions
from cdjax.inference.rows import jit_rows, rows_per_pass
from cdjax.models import Edit, LlamaConfig
from cdjax.parallel.mesh import one_device
from cdjax.planning.compiling import compile_program
from cdjax.planning.discovery import DiscoveryJob
from cdjax.planning.job import Program, abstract_neurons, abstract_rows, abstract_weights
from cdjax.planning.roofline import Work
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.objectives import FixedDensity, objective

CLASSES = 4
NOTHING = Work(0.0, 0.0, 0.0, 0.0)


def run(shape: LlamaConfig, *, prefix: int, question: int, batch_size: int) -> dict[str, Any]:
    """Compiles `predict` and a discovery step, with fills as they are and as dense shifts.

    Args:
        shape: of the model.
        prefix: tokens of a few-shot prefix.
        question: tokens behind it.
        batch_size: problems of a step.

    Returns:
        Tokens of a problem; and by program its rows, the bytes of `temporaries` within a call, and
        of `dense_temporaries` in the same call with dense fills.
    """
    mesh, length = one_device(), prefix + question
    rows = rows_per_pass(10**6, length, 1)
    programs = {
        'predict': lambda: _predict(shape, mesh, rows, length),
        'discovery step': lambda: _step(shape, mesh, batch_size, length),
    }
    found = {
        name: {
            'rows': rows if name == 'predict' else batch_size,
            'temporaries': compile_program(program(), mesh).temporaries,
            'dense_temporaries': _compiled_dense(program, mesh),
        }
        for name, program in programs.items()
    }
    return {'length': length, 'programs': found}


def _compiled_dense(program, mesh: Mesh) -> int:
    """Returns the temporaries of a program whose fills are dense shifts."""
    jax.clear_caches()  # a function that was traced with the other edit would not be traced again
    predictions._predict_rows.cache_clear()
    with (
        mock.patch.object(predictions, 'keep_only', _dense),
        mock.patch.object(objective, 'keep_only', _dense),
    ):
        return compile_program(program(), mesh).temporaries


def _dense(masks_BxLxU, fill, *place) -> Edit:
    """Returns the edit of `keep_only` with the fill as a shift."""
    edit = ablation.keep_only(masks_BxLxU, fill, *place)
    shift = (1 - edit.scale) * edit.center
    return dataclasses.replace(edit, center=None, shift=shift)


def _predict(shape: LlamaConfig, mesh: Mesh, rows: int, length: int) -> Program:
    """One pass of `predict` with a mask for each class and mean ablation."""
    L, F = shape.num_layers, shape.intermediate_size
    constants = {
        'model': abstract_weights(shape, 'float32', mesh),
        'masks': abstract_neurons(mesh, (CLASSES, L, F), jnp.bool_),
        'fill': abstract_neurons(mesh, (L, length, F)),
    }
    row = lambda *trailing: abstract_rows(mesh, 'rows', (rows, *trailing), jnp.int32)
    names = ('lengths', 'answers', 'counterfactual_answers', 'classes')
    batch = {'tokens': row(length), **{name: row() for name in names}}
    counts = abstract_rows(mesh, 'counts', (rows,), jnp.bool_)
    jitted = jit_rows(predictions._predict_rows('neurons', None), mesh)
    kinds = {**constants, 'batch': (batch, counts)}
    return Program('predict', jitted, (constants, batch, counts), kinds, NOTHING)


def _step(shape: LlamaConfig, mesh: Mesh, batch_size: int, length: int) -> Program:
    """One step of a discovery at one density, which ablates one model a problem."""
    config = DiscoveryConfig(
        num_classes=CLASSES, objective=FixedDensity(), batch_size=batch_size, remat='full'
    )
    job = DiscoveryJob(
        shape, length, num_problems=batch_size, config=config, teacher_dtype='float32'
    )
    return job.programs(mesh)[-1]
