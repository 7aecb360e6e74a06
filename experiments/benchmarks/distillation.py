"""What a step of distillation pays for its teacher: kept in memory, kept on disk, or asked online.

The student's own step, of a batch that lies on the device already, is what the others are held
against: they gather a batch of other problems each time, and put it there.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from cdjax.data import batch_indices
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.shards import stored_teacher
from cdjax.distillation.store import OnlineTeacher, TeacherStore, Wanted
from cdjax.distillation.target import Target
from cdjax.models import Llama, LlamaConfig
from cdjax.parallel.mesh import one_device, put_batch
from cdjax.training.distillation import DistillationConfig, make_step
from cdjax.training.optimizer import OptimizerConfig, make_optimizer
from cdjax.training.state import init_state
from experiments.benchmarks.measure import OURS, compare, machine
from experiments.benchmarks.subject import LENGTH, SHAPES, make_dataset, random_model

PROBLEMS, BATCH = 4096, 128


def run(
    workdir: Path,
    *,
    rounds: int,
    shape: LlamaConfig = SHAPES['small'],
    problems: int = PROBLEMS,
) -> dict[str, Any]:
    """Measures a step that aligns the circuits of four classes in the last layer.

    Args:
        workdir: folder of the store on disk.
        rounds: steps of each.
        shape: of the teacher; the student has half its width.
        problems: that are stored.
    """
    mesh, rng = one_device(), np.random.default_rng(0)
    teacher = random_model(shape)
    student = shape.half_width()
    dataset = make_dataset(
        rng.integers(0, shape.vocab_size, (problems, LENGTH)),
        rng.integers(0, shape.vocab_size, (2, problems)),
    )
    last, config = shape.num_layers - 1, DistillationConfig(OptimizerConfig(100, 1e-3, 1, 0.0))
    masks = rng.random((4, shape.num_layers, shape.intermediate_size)) < 0.2
    alignment = Alignment(((last, last),), rng.integers(4, size=problems), masks)
    wanted, passes = Wanted(layers=(last,)), {'mesh': mesh}
    stores = {
        'memory': TeacherStore.build(teacher, dataset, layers=(last,), **passes),
        'disk': stored_teacher(workdir / 'store', teacher, dataset, wanted, **passes),
        'online': OnlineTeacher.build(teacher, dataset, wanted, **passes),
    }
    tx, placed = make_optimizer(config.optimizer), alignment.placed(mesh)
    state = init_state(lambda key: Llama(student, key), tx, jax.random.key(0), mesh)
    step, rows, steps = jax.jit(make_step(tx, config)), np.arange(problems), iter(range(10**9))

    def batch_of(store) -> dict[str, Any]:
        index = batch_indices(rows, min(BATCH, problems), seed=0, step=next(steps))
        batch = {
            'tokens': dataset.tokens[index],
            'lengths': dataset.lengths[index],
            'teacher_logits': store.logits_of(index),
            'teacher_activations': Target(alignment, store)[index],
            'classes': np.asarray(alignment.classes[index], np.int32),
        }
        return put_batch(batch, mesh)

    def measured(batch):
        with jax.set_mesh(mesh):
            return jax.block_until_ready(step(state, batch, placed))

    fixed = batch_of(stores['memory'])
    programs = {OURS: lambda: measured(fixed)}
    for name, store in stores.items():
        programs[name] = lambda store=store: measured(batch_of(store))
    return {'cases': {'step': compare(programs, rounds)}, 'absent': [], 'machine': machine()}
