"""Steps of both trainings: what a teacher and an alignment cost a student, and what a dispatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.distillation.alignment import Alignment
from cdjax.models import Llama, LlamaConfig
from cdjax.parallel.mesh import one_device, put_batch, split_neurons
from cdjax.training import discovery_step, distillation
from cdjax.training.discovery_config import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig, student_flops
from cdjax.training.optimizer import make_optimizer
from cdjax.training.state import init_state
from cdjax.training.step import AT_ONCE, jit_step, put_batches, several_steps
from experiments.benchmarks.measure import against_limit, compare, machine
from experiments.benchmarks.subject import LENGTH, SHAPES, random_model

BARE, ONE_BY_ONE = 'labels alone', 'dispatched one by one'
IN_TURN = 'one seed after another'
SEEDS = 4
CLASSES = 4
# The student of the demo, rows of its batches, and about as many problems as it learns from.
DEMO = LlamaConfig(109, 64, 256, 2, 2, 2, 32)
DEMO_ROWS, DEMO_PROBLEMS = 128, 2048


def run(*, shape: str, rows: int, rounds: int) -> dict[str, Any]:
    """Measures steps of a student of half the width, and of the demo's: by part, and of four."""
    c = SHAPES[shape]
    student = c.half_width()
    teacher = random_model(c, seed=1)
    by_labels = {'task': 'cross_entropy'}
    steps = {
        BARE: student_steps(student, c, rows, **by_labels),
        'stored teacher': student_steps(student, c, rows),
        'stored teacher, all neurons aligned': student_steps(student, c, rows, aligned='all'),
        'stored teacher, circuits aligned': student_steps(student, c, rows, aligned='circuits'),
        'teacher in the step': student_steps(student, c, rows, teacher=teacher),
    }
    dispatches = {
        ONE_BY_ONE: student_steps(DEMO, DEMO, DEMO_ROWS, times=AT_ONCE),
        'dispatched at once': student_steps(DEMO, DEMO, DEMO_ROWS, at_once=AT_ONCE),
        **parts_of_steps(AT_ONCE),
    }
    seeds = {
        IN_TURN: student_steps(DEMO, DEMO, DEMO_ROWS, times=SEEDS),
        'under vmap': student_steps(DEMO, DEMO, DEMO_ROWS, seeds=SEEDS),
    }
    limit, flops = machine(), AT_ONCE * student_flops(DEMO, DEMO_ROWS, LENGTH, None)
    demo = compare(dispatches, rounds, base=ONE_BY_ONE)
    return {
        'cases': {
            'student step': compare(steps, rounds, base=BARE),
            f'{AT_ONCE} steps of the demo': demo
            | against_limit(flops, demo, limit, program=ONE_BY_ONE),
            f'a step of {SEEDS} seeds of the demo': compare(seeds, rounds, base=IN_TURN),
        },
        'machine': limit,
    }


def parts_of_steps(times: int) -> dict[str, Callable[[], Any]]:
    """Returns calls that do what the host does for steps of the demo's student.

    Args:
        times: steps of a call.
    """
    mesh, rng = one_device(), np.random.default_rng(0)
    stored = _rows(rng, DEMO_PROBLEMS, DEMO)
    stored['teacher_logits'] = rng.normal(size=(DEMO_PROBLEMS, DEMO.vocab_size)).astype(np.float32)
    index = rng.permutation(DEMO_PROBLEMS)[:DEMO_ROWS]
    gather = lambda: {name: rows[index] for name, rows in stored.items()}
    batch = gather()
    tx = make_optimizer(DistillationConfig().suited_to(pretrained=False).optimizer)
    state = init_state(lambda key: Llama(DEMO, key), tx, jax.random.key(0), mesh)
    nothing = jit_step(lambda state, _: (state, state.step), state)
    each = lambda part: lambda: [jax.block_until_ready(part()) for _ in range(times)]
    return {
        'a program that returns the state': _repeated(nothing, state, 0, mesh=mesh, times=times),
        'batches from the store': each(gather),
        'batches put on the device': each(lambda: put_batch(batch, mesh)),
    }


def student_steps(
    student: LlamaConfig,
    teacher_shape: LlamaConfig,
    rows: int,
    *,
    task: str = 'kd',
    aligned: str | None = None,
    teacher: Llama | None = None,
    at_once: int = 1,
    times: int = 1,
    seeds: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[], Any]:
    """Returns a call that trains a student of random weights, and waits for it.

    Args:
        student: its shape.
        teacher_shape: that of the teacher.
        rows: of a batch.
        task: see `DistillationConfig`.
        aligned: 'all' neurons of the last layers, or 'circuits' within classes.
        teacher: runs within each step, in place of logits that are stored.
        at_once: steps of a dispatch.
        times: dispatches of a call.
        seeds: students whose steps are one program, by `jax.vmap`.
        mesh: one device if None.
    """
    mesh, rng = one_device() if mesh is None else mesh, np.random.default_rng(0)
    config = DistillationConfig(task=task, batch_size=rows).suited_to(pretrained=False)
    tx = make_optimizer(config.optimizer)
    state = init_state(lambda key: Llama(student, key), tx, jax.random.key(0), mesh)
    batch = _rows(rng, rows, teacher_shape)
    if task == 'cross_entropy':
        batch['labels'] = batch['lengths']
    elif teacher is None:
        logits = rng.normal(size=(rows, teacher_shape.vocab_size))
        batch['teacher_logits'] = logits.astype(np.float32)
    alignment = None
    if aligned is not None:
        pairs = ((student.num_layers - 1, teacher_shape.num_layers - 1),)
        neurons = rng.normal(size=(rows, 1, teacher_shape.intermediate_size))
        batch['teacher_activations'] = neurons.astype(np.float32)
        alignment = Alignment(pairs)
        if aligned == 'circuits':
            classes = rng.integers(0, CLASSES, rows)
            size = (CLASSES, teacher_shape.num_layers, teacher_shape.intermediate_size)
            alignment = Alignment(pairs, classes=classes, teacher_masks=rng.random(size) < 0.1)
            batch['classes'] = classes.astype(np.int32)
        alignment = alignment.placed(mesh)
    step = distillation.make_step(tx, config)
    if teacher is not None:
        step = _with_teacher(step)
    if seeds > 1:
        step = jax.vmap(step, in_axes=(0, 0, None))
        state, batch = jax.tree.map(lambda x: jnp.stack([x] * seeds), (state, batch))
        return _repeated(jax.jit(step, donate_argnums=0), state, batch, alignment, mesh=mesh)
    jitted = jit_step(several_steps(step, at_once), state)
    batch = put_batches([batch] * at_once, at_once, mesh) if at_once > 1 else put_batch(batch, mesh)
    others = (alignment,) if teacher is None else (alignment, teacher)
    return _repeated(jitted, state, batch, *others, times=times, mesh=mesh)


def discovery_steps(c: LlamaConfig, rows: int, classes: int = CLASSES) -> Callable[[], Any]:
    """Returns a call that does one step of a search in a model of random weights."""
    mesh, rng = one_device(), np.random.default_rng(0)
    config = DiscoveryConfig(num_classes=classes, batch_size=rows)
    tx = discovery_step.make_discovery_optimizer(config)
    model = random_model(c, seed=1)
    fill = np.zeros((c.num_layers, LENGTH, c.intermediate_size), np.float32)
    init = lambda key: discovery_step.make_params(
        key, {'teacher': c}, None, config.objective, classes
    )
    state = init_state(init, tx, jax.random.key(0), mesh, rules=discovery_step.RULES)
    batch = _rows(rng, rows, c)
    batch['classes'] = rng.integers(0, classes, rows).astype(np.int32)
    logits = rng.normal(size=(rows, c.vocab_size)).astype(np.float32)
    batch['stores'] = {'teacher': {'logits': logits}}
    frozen = {'teacher': {'model': model, 'fill': split_neurons(fill, mesh)}}
    step = jit_step(discovery_step.make_step(tx, config), state)
    return _repeated(step, state, put_batch(batch, mesh), frozen, mesh=mesh)


def _rows(rng, rows, c):
    tokens = lambda *shape: rng.integers(0, c.vocab_size, shape).astype(np.int32)
    return {
        'tokens': tokens(rows, LENGTH),
        'lengths': np.full(rows, LENGTH, np.int32),
        'answers': tokens(rows),
        'counterfactual_tokens': tokens(rows, LENGTH),
    }


def _with_teacher(step):
    """Returns a step `(state, batch, alignment, teacher)` that asks the teacher for its logits."""

    def with_teacher(state, batch, alignment, teacher):
        said, _ = teacher(batch['tokens'], logits_at=batch['lengths'] - 1)
        return step(state, batch | {'teacher_logits': said}, alignment)

    return with_teacher


def _repeated(jitted, state, batch, *others, mesh, times=1):
    """Returns a call of a step whose state, which it consumes, is that of the call before."""

    def call():
        nonlocal state
        with jax.set_mesh(mesh):
            for _ in range(times):
                state, metrics = jitted(state, batch, *others)
        return jax.block_until_ready(metrics)

    return call
