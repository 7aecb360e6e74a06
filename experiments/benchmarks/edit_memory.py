"""What ablation costs in memory, by the compiler's own count, at the shapes of a large model.

A fill is a center that an edit scales about, `[L, 1, T, F]`. Written as a shift, `(1 - m) * fill`,
it is dense, `[L, B, T, F]`, for every problem has a mask of its own: that is compared with.
Nothing is loaded and nothing is run. Weights are float32, for the compiler of a CPU would widen
bfloat16 ones within the program, and count them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cdjax.circuits import keep_only
from cdjax.inference.predictions import answer_columns, predict_rows, scores_under
from cdjax.inference.rows import jit_rows, rows_per_pass
from cdjax.models import Edit, LlamaConfig
from cdjax.parallel.mesh import one_device
from cdjax.planning.compiling import compile_program
from cdjax.planning.discovery import DiscoveryJob
from cdjax.planning.job import Program, abstract_neurons, abstract_rows, abstract_weights
from cdjax.planning.roofline import Work
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.objectives import FixedDensity
from cdjax.training.objectives.objective import Subject

CLASSES = 4
NOTHING = Work(0.0, 0.0, 0.0, 0.0)


def dense(masks_BxLxF: jax.Array, fill: jax.Array) -> Edit:
    """Returns the edit of `keep_only` with the fill as a shift."""
    edit = keep_only(masks_BxLxF, fill)
    return dataclasses.replace(edit, center=None, shift=(1 - edit.scale) * edit.center)


def predict_dense_rows(constants, rows):
    """Does what `predict_rows` returns, with a dense fill."""
    edit = dense(constants['masks'][rows['classes']], constants['fill'][:, None])
    return scores_under({'neurons': edit}, constants, rows)


class DenseSubject(Subject):
    """A model whose ablated neurons have a dense fill."""

    def ablated_logits(self, masks_BxLxF, fill_LxBxTxF=None):
        """See `Subject`."""
        fill = self.fill[:, None] if fill_LxBxTxF is None else fill_LxBxTxF
        return self.model(
            self.batch['tokens'],
            edits={'neurons': dense(masks_BxLxF, fill)},
            logits_at=answer_columns(self.batch),
            remat=self.remat,
        )[0]


class DenseFills(FixedDensity):
    """The same objective of a `DenseSubject`."""

    def loss(self, params, subject, draws, progress):
        """See `Objective`."""
        return super().loss(params, DenseSubject(**vars(subject)), draws, progress)


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
    predict = lambda of_rows: _predict(shape, mesh, rows, length, of_rows)
    step = lambda objective: _step(shape, mesh, batch_size, length, objective)
    programs = {
        'predict': (rows, predict(predict_rows('neurons', None)), predict(predict_dense_rows)),
        'discovery step': (batch_size, step(FixedDensity()), step(DenseFills())),
    }
    found = {}
    for name, (problems, *both) in programs.items():
        ours, dense = (compile_program(program, mesh).temporaries for program in both)
        found[name] = {'rows': problems, 'temporaries': ours, 'dense_temporaries': dense}
    return {'length': length, 'programs': found}


def _predict(shape: LlamaConfig, mesh: Mesh, rows: int, length: int, of_rows: Callable) -> Program:
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
    kinds = {**constants, 'batch': (batch, counts)}
    jitted = jit_rows(of_rows, mesh)
    return Program('predict', jitted, (constants, batch, counts), kinds, NOTHING)


def _step(
    shape: LlamaConfig, mesh: Mesh, batch_size: int, length: int, objective: FixedDensity
) -> Program:
    """One step of a discovery at one density, which ablates one model a problem."""
    config = DiscoveryConfig(
        num_classes=CLASSES, objective=objective, batch_size=batch_size, remat='full'
    )
    job = DiscoveryJob(
        shape, length, num_problems=batch_size, config=config, teacher_dtype='float32'
    )
    return job.programs(mesh)[-1]
