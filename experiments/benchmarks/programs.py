"""The programs of a run at the shapes of Llama 3, random weights: time, MFU, memory, worst kernels.

They are those that a plan compiles (`cdjax.planning`): passes of the teacher, a step of a discovery
and of a student. Each runs in a process of its own, so that its peak of memory is its own, and is
held against what the plan says that it takes.
"""

import dataclasses
import json
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.errors import InputError
from cdjax.models.config import LlamaConfig
from cdjax.parallel.hardware import least_seconds
from cdjax.parallel.mesh import make_mesh, path_name
from cdjax.planning.compiling import compile_for, compile_program
from cdjax.planning.discovery import DiscoveryJob
from cdjax.planning.distillation import DistillationJob
from cdjax.planning.fitting import MeshShape
from cdjax.planning.job import Job, Program
from cdjax.planning.targets import CHIPS, parse_target
from cdjax.run.options import RunOptions
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from experiments.benchmarks.measure import in_a_process, machine

# Calls that are traced, and kernels of them that are named.
TRACED, NAMED = 3, 8
CLASSES = 4


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a process of its own is to measure: one program of a job, so many calls of it."""

    job: Job
    index: int
    rounds: int


def make_jobs(
    model: LlamaConfig, student: LlamaConfig, *, length: int, tokens_per_pass: int, batch_size: int
) -> dict[str, Job]:
    """Returns a discovery in a model, and the training of a student by it, both in bfloat16.

    Args:
        model: shape of the teacher.
        student: that of the student; float32 parameters.
        length: positions of a row.
        tokens_per_pass: tokens of a pass of the teacher.
        batch_size: rows of a step.
    """
    size = {
        'length': length,
        'num_problems': max(tokens_per_pass // length, batch_size),
        'options': RunOptions(tokens_per_pass=tokens_per_pass),
    }
    search = DiscoveryConfig(num_classes=CLASSES, batch_size=batch_size)
    training = DistillationConfig(batch_size=batch_size, compute_dtype='bfloat16')
    return {
        'discover': DiscoveryJob(model, config=search, **size),
        'distill': DistillationJob(student, model, config=training, keep_teacher=False, **size),
    }


def run(jobs: Mapping[str, Job], *, rounds: int) -> dict[str, Any]:
    """Measures every program of the jobs.

    Args:
        jobs: by name.
        rounds: calls of each program that are timed.

    Returns:
        `programs` by name: time, rates, memory and kernels; `machine`: its limits.
    """
    programs, limit = {}, None
    for name, job in jobs.items():
        measured = {}
        for index in range(len(job.works(1, 1))):
            asked = pickle.dumps(Measurement(job, index, rounds))
            answer = in_a_process(__name__, given=asked)
            limit, program = answer.pop('machine'), answer.pop('name')
            measured[program] = answer
            ms, part = 1e3 * answer['seconds']['median'], answer['of_limit']
            line = f'{name}: {program}: {ms:.3g} ms, {part:.0%} of the limit of products'
            print(line, file=sys.stderr, flush=True)
        for program, footprint in _planned(job, limit).items():
            measured[program]['planned_bytes'] = footprint.total
        programs |= {f'{name}: {program}': found for program, found in measured.items()}
    return {'programs': programs, 'machine': limit}


def _planned(job: Job, limit: Mapping[str, Any]) -> dict[str, Any]:
    """Returns by name what a plan for this machine says, which asks its compiler alone."""
    names = {chip.kind: name for name, chip in CHIPS.items()}
    name = names.get(limit['device'])
    if name is None or not limit['device'].startswith('NVIDIA'):
        return {}
    try:
        target = parse_target(f'{name}x{limit["devices"]}')
        footprints, _ = compile_for(target, MeshShape(limit['devices'], 1), job)
    except (InputError, RuntimeError) as error:  # what was measured is not lost
        print(f'warning: no plan to compare with: {error}', file=sys.stderr)
        return {}
    return {footprint.name: footprint for footprint in footprints}


def measure(measurement: Measurement) -> dict[str, Any]:
    """Compiles and runs one program on the devices of this process.

    Returns:
        `seconds` of a call, the median and the least; `mfu` and `of_limit`, useful FLOPs over the
        peak that the vendor states and over the product that was measured, None where neither is
        known; `bytes` of its arguments by kind, and `peak_bytes` in use; `kernels`, by name the
        share of the time that the devices were busy.
    """
    mesh = make_mesh()
    limit = machine('bfloat16') | {'devices': mesh.devices.size}
    program = measurement.job.programs(mesh)[measurement.index]
    with jax.set_mesh(mesh):
        footprint = compile_program(program, mesh)
        call = _caller(program.step, random_arguments(program))
        call()
        taken = []
        for _ in range(measurement.rounds):
            at = time.perf_counter()
            call()
            taken.append(time.perf_counter() - at)
        stats = jax.local_devices()[0].memory_stats() or {}
        kernels = _kernels(call)
    seconds, flops = float(np.median(taken)), program.work.useful_flops
    dtype = 'float32' if program.work.float32_flops else 'bfloat16'
    least = least_seconds({dtype: flops}, mesh)
    return {
        'name': program.name,
        'seconds': {'median': seconds, 'least': min(taken)},
        'useful_flops': flops,
        'mfu': least and least / seconds,
        'of_limit': flops / seconds / limit['flops_per_second'] / limit['devices'],
        'bytes': footprint.kinds
        | {'results': footprint.results, 'temporaries': footprint.temporaries},
        'compiled_bytes': footprint.total,
        'peak_bytes': stats.get('peak_bytes_in_use'),
        'compile_seconds': footprint.compile_seconds,
        'kernels': kernels,
        'machine': limit,
    }


def random_arguments(program: Program) -> tuple[Any, ...]:
    """Returns arrays for the arguments of a program, made where they lie and without temporaries.

    Weights and activations are noise, moments of an optimizer zero, as at its start; every row is
    as long as there are positions.
    """
    moments = {id(leaf) for leaf in jax.tree.leaves(program.kinds.get('optimizer', ()))}
    paths, treedef = jax.tree_util.tree_flatten_with_path(program.arguments)
    length = next(leaf.shape[1] for path, leaf in paths if path_name(path).endswith('tokens'))
    made = lambda: [
        _random(path_name(path), leaf, seed, length, zero=id(leaf) in moments)
        for seed, (path, leaf) in enumerate(paths)
    ]
    shardings = [leaf.sharding for _, leaf in paths]
    return jax.tree.unflatten(treedef, jax.jit(made, out_shardings=shardings)())


def _random(name, leaf, seed, length, *, zero):
    """Returns an array of the shape and dtype of a leaf."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(seed)
    if zero or leaf.ndim == 0:
        return jnp.zeros(leaf.shape, leaf.dtype)
    if name.endswith('lengths'):
        return jnp.full(leaf.shape, length, leaf.dtype)
    if leaf.dtype == jnp.bool_:
        return jnp.ones(leaf.shape, leaf.dtype)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return (_noise(leaf.shape, seed) * (CLASSES - 1e-3)).astype(leaf.dtype)
    return ((_noise(leaf.shape, seed) - 0.5) * 0.1).astype(leaf.dtype)


def _noise(shape, seed):
    """Returns float32 in [0, 1), a hash of each place.

    Fused into what reads it, it takes no memory; `jax.random` needs twice that of what it makes.
    """
    at = jnp.full(shape, seed + 1, jnp.uint32)
    for axis, size in enumerate(shape):
        at = at * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    for factor in (0x7FEB352D, 0x846CA68B):
        at = (at ^ (at >> 16)) * jnp.uint32(factor)
    return (at >> 8).astype(jnp.float32) / 2**24


def _caller(step: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], None]:
    """Returns a call that waits; a state that the step consumes is that of the call before."""
    first, *others = arguments

    def call():
        nonlocal first
        results = jax.block_until_ready(step(first, *others))
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(first)):
            first = results[0]

    return call


def _kernels(call):
    """Returns the names of what takes the devices longest, and its share of their busy time."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(TRACED):
                call()
        (file,) = Path(folder).rglob('*.xplane.pb')
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        taken = Counter()
        for plane in planes:
            if not plane.name.startswith('/device:'):
                continue
            for line in plane.lines:
                # The other lines tell of the same time by module, by operation and by source.
                if line.name.startswith(('Stream', 'XLA Ops')):
                    for event in line.events:
                        taken[event.name] += event.duration_ns
    busy = sum(taken.values())
    return {name: time / busy for name, time in taken.most_common(NAMED)}


def main() -> None:
    """Reads what `run` sends to standard input, and prints its answer as JSON."""
    print(json.dumps(measure(pickle.load(sys.stdin.buffer))))


if __name__ == '__main__':
    main()
