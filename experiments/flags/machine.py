"""Flags of the machine: the mesh, and on several hosts how the processes find each other."""

import inspect

import jax
from absl import flags, logging
from jax.sharding import Mesh

from cdjax.parallel import multihost
from cdjax.parallel.mesh import make_mesh
from cdjax.run.compilation import enable_compilation_cache
from experiments.flags.groups import group

FLAGS = flags.FLAGS


@group('Machine')
def define_mesh_flags() -> None:
    """Defines the two axes of the mesh."""
    axes = inspect.signature(make_mesh).parameters
    flags.DEFINE_integer(
        'fsdp', axes['fsdp'].default, 'Devices over which batches are split; -1: all that is left.'
    )
    flags.DEFINE_integer(
        'tensor', axes['tensor'].default, 'Devices over which neurons and heads are split.'
    )


@group('Machine')
def define_machine_flags() -> None:
    """Defines the mesh and, on several hosts, how the processes find each other."""
    define_mesh_flags()
    flags.DEFINE_string('coordinator', None, 'host:port of process 0, where nothing tells it.')
    flags.DEFINE_integer('num_processes', None, 'Processes of this run, with --coordinator.')
    flags.DEFINE_integer('process_id', None, 'Number of this process, with --coordinator.')
    flags.DEFINE_string(
        'compilation_cache', '~/.cache/cdjax', 'Folder of compiled programs; none if empty.'
    )


def start_machine() -> Mesh:
    """Joins the processes of the run and returns the mesh; before any array is made."""
    if FLAGS.compilation_cache:
        enable_compilation_cache(FLAGS.compilation_cache)
    multihost.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if jax.process_index() > 0:  # what one process warns of, all would
        logging.set_verbosity(logging.ERROR)
    return make_mesh(FLAGS.fsdp, FLAGS.tensor)
