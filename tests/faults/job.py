"""One process of a training that the fault campaign kills: `python tests/faults/job.py --help`."""

import functools
import sys
from pathlib import Path

from absl import app, flags

sys.path.append(str(Path(__file__).resolve().parents[1]))

FLAGS = flags.FLAGS
flags.DEFINE_list('job', None, 'What to do: tiny, discovery, distillation or stages, or several.')
flags.DEFINE_string('workdir', None, 'Where; several jobs in folders of their names.')
flags.DEFINE_integer('devices', 2, 'Simulated devices of this process.')
flags.DEFINE_integer('tensor', 1, 'Devices over which neurons are split.')
flags.DEFINE_integer('layers', 2, 'Layers of teacher and student.')
flags.DEFINE_integer('steps', 120, 'Steps.')
flags.DEFINE_integer('checkpoint_every', 8, 'Steps between checkpoints.')
flags.DEFINE_string('compilation_cache', None, 'Where compiled programs are kept.')
flags.DEFINE_string('coordinator', None, 'host:port of process 0.')
flags.DEFINE_integer('num_processes', None, 'Number of processes.')
flags.DEFINE_integer('process_id', None, 'Number of this process.')
flags.mark_flags_as_required(['job', 'workdir'])

PREEMPTED = 75


def tiny(mesh, workdir):
    """A linear map learned under noise: a step depends on batch, step, key and moments."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from cdjax.parallel.mesh import FSDP, P
    from cdjax.run.options import RunOptions
    from cdjax.training.loop import fit
    from cdjax.training.state import TrainState, init_state

    tx = optax.adamw(1e-2)

    def step(state, batch):
        key = jax.random.fold_in(state.key, state.step)

        def loss(params):
            noise = 0.01 * jax.random.normal(key, batch['x'].shape)
            return jnp.mean((jnp.tanh((batch['x'] + noise) @ params['w']) - batch['x']) ** 2)

        value, grads = jax.value_and_grad(loss)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), {'loss': value}

    def batch_at(n):
        return {'x': np.random.default_rng(n).normal(size=(16, 64)).astype(np.float32)}

    state = init_state(
        lambda key: {'w': 0.1 * jax.random.normal(key, (64, 64))},
        tx,
        jax.random.key(0),
        mesh,
        rules=((r'w$', P(FSDP)),),
    )
    fit(
        jax.jit(step, donate_argnums=0),
        state,
        batch_at,
        steps=FLAGS.steps,
        mesh=mesh,
        description='tiny',
        workdir=workdir,
        options=RunOptions(checkpoint_every=FLAGS.checkpoint_every),
    )


@functools.cache
def teacher_and_problems(mesh):
    """A small random teacher, and the sums of two numbers below 8."""
    from toy_study import random_model

    from cdjax.data import ArithmeticTask, build_arithmetic_tokenizer
    from cdjax.models import LlamaConfig

    tokenizer = build_arithmetic_tokenizer(14)
    problems = ArithmeticTask(operators=('+',), operands=2, low=0, high=7).encode(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_layers=FLAGS.layers,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_length=16,
    )
    return random_model(config, 1, mesh), problems


def discovery(mesh, workdir):
    """Stage 1 on a random teacher."""
    import numpy as np

    from cdjax.run.options import RunOptions
    from cdjax.training.discovery import DiscoveryConfig, discover
    from cdjax.training.objectives import AnySize
    from cdjax.training.optimizer import OptimizerConfig

    teacher, problems = teacher_and_problems(mesh)
    discover(
        {'teacher': teacher},
        problems,
        np.arange(len(problems)),
        DiscoveryConfig(
            OptimizerConfig(FLAGS.steps, 1e-2),
            num_classes=2,
            objective=AnySize(smallest=0.05),
            batch_size=16,
            least_accuracy=0.0,
        ),
        mesh=mesh,
        workdir=workdir,
        options=RunOptions(checkpoint_every=FLAGS.checkpoint_every, check_gradients=False),
    )


def distillation(mesh, workdir):
    """Stage 2 from nothing, with circuits of two classes at random."""
    import dataclasses

    import numpy as np

    from cdjax.distillation.alignment import Alignment
    from cdjax.distillation.store import TeacherStore
    from cdjax.run.options import RunOptions
    from cdjax.training.distillation import DistillationConfig, distill
    from cdjax.training.optimizer import OptimizerConfig

    teacher, problems = teacher_and_problems(mesh)
    rng = np.random.default_rng(0)
    distill(
        dataclasses.replace(teacher.config, hidden_size=8, intermediate_size=16),
        TeacherStore.build(teacher, problems, mesh=mesh),
        problems,
        DistillationConfig(OptimizerConfig(FLAGS.steps, 1e-2, weight_decay=0.0), batch_size=32),
        mesh=mesh,
        alignment=Alignment(
            pairs=tuple((layer, layer) for layer in range(FLAGS.layers)),
            classes=rng.integers(0, 2, len(problems)),
            teacher_masks=rng.random((2, FLAGS.layers, 32)) < 0.5,
        ),
        workdir=workdir,
        options=RunOptions(checkpoint_every=FLAGS.checkpoint_every, check_gradients=False),
    )


def stages(_, workdir):
    """Stages of a study between which nothing trains; only process 0 sees their results."""
    import time

    import jax
    from etils import epath

    from cdjax.run.results import stored

    process = jax.process_index()
    folder = epath.Path(workdir) / ('results' if process == 0 else 'not yet visible')

    def compute(stage):
        time.sleep(0.05)
        return {'stage': stage, 'by': process}

    for stage in range(FLAGS.steps):
        found = stored(folder / f'{stage}.json', lambda stage=stage: compute(stage))
        assert found == {'stage': stage, 'by': 0}, found


JOBS = {'tiny': tiny, 'discovery': discovery, 'distillation': distillation, 'stages': stages}


def main(_):
    """Trains to the end, or exits with 75 when told to stop."""
    import jax
    from absl import logging

    logging.set_verbosity(logging.WARNING)
    jax.config.update('jax_num_cpu_devices', FLAGS.devices)
    from cdjax.parallel.mesh import make_mesh
    from cdjax.parallel.multihost import initialize
    from cdjax.parallel.preemption import Preempted
    from cdjax.run.compilation import enable_compilation_cache

    initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if FLAGS.compilation_cache:
        enable_compilation_cache(FLAGS.compilation_cache)
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    mesh = make_mesh(tensor=FLAGS.tensor)
    try:
        for name in FLAGS.job:
            JOBS[name](mesh, Path(FLAGS.workdir) / (name if len(FLAGS.job) > 1 else ''))
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        return PREEMPTED
    return 0


if __name__ == '__main__':
    app.run(main)
