"""What fits where, before a weight is loaded: programs compiled for a machine one need not have.

Compiling the programs of a job for the devices of a `Target` gives the memory they will take, to
the byte on a TPU. It is done in a process of its own (`python -m cdjax.planning.compiling`), which
is sent the job, for a compiler for another machine must not meet the JAX of this one.
"""

import dataclasses
import json
import math
import pickle
import re
import subprocess
import sys
import time
from typing import Any

import jax
from jax.sharding import Mesh

from cdjax.errors import InputError
from cdjax.parallel.hardware import Peak
from cdjax.parallel.mesh import make_mesh
from cdjax.planning.fitting import MeshShape
from cdjax.planning.job import Job, Program
from cdjax.planning.roofline import Work
from cdjax.planning.targets import (
    Chip,
    Target,
    compiler_environment,
    target_devices,
)

# The part of a device's memory that a plan may fill; the rest is for what the compiler cannot
# know: fragments, infeed, a second program.
USABLE = 0.9


@dataclasses.dataclass(frozen=True)
class Footprint:
    """A program compiled for a machine; bytes are those of one device.

    Attributes:
        name: of the program.
        kinds: bytes of its arguments, and of what lies beside them, by kind.
        results: bytes of its results that take no argument's place.
        temporaries: bytes alive within a call: activations, gradients, gathered weights.
        work: what one call does.
        compile_seconds: how long the compiler took.
    """

    name: str
    kinds: dict[str, int]
    results: int
    temporaries: int
    work: Work
    compile_seconds: float

    @property
    def total(self) -> int:
        """All bytes that the program takes on a device."""
        return sum(self.kinds.values()) + self.results + self.temporaries


def device_bytes(tree: Any) -> int:
    """Returns the bytes that one device holds of a tree of arrays or shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def compile_program(program: Program, mesh: Mesh) -> Footprint:
    """Compiles a program for the devices of a mesh, and measures what it takes.

    A program that does not fit is a footprint too: where the compiler refuses it, its message says
    what temporaries, or all together, would take.

    Raises:
        jax.errors.JaxRuntimeError: the compiler fails for another reason.
    """
    named = sum(len(jax.tree.leaves(tree)) for tree in program.kinds.values())
    assert named == len(jax.tree.leaves(program.arguments)), f'{program.name}: kinds are not all'
    kinds = {kind: device_bytes(tree) for kind, tree in program.kinds.items()}
    beside = {kind: device_bytes(tree) for kind, tree in program.beside.items()}
    start = time.perf_counter()
    try:
        with jax.set_mesh(mesh):
            compiled = program.step.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        results, temporaries = 0, _refused_temporaries(str(error), sum(kinds.values()))
        if temporaries is None:
            raise
    else:
        memory = compiled.memory_analysis()
        results = memory.output_size_in_bytes - memory.alias_size_in_bytes
        # Padding to the tiles of the hardware counts as temporary, so that the total is exact.
        padding = memory.argument_size_in_bytes - sum(kinds.values())
        temporaries = memory.temp_size_in_bytes + max(padding, 0)
    seconds = time.perf_counter() - start
    return Footprint(
        program.name, kinds | beside, max(results, 0), temporaries, program.work, seconds
    )


def _refused_temporaries(message: str, arguments: int) -> int | None:
    """Returns the bytes of temporaries for which the TPU compiler refuses a program.

    Args:
        message: of its error.
        arguments: bytes of the program's arguments.

    Returns:
        Bytes; None where the message is about something else than memory.
    """
    if 'RESOURCE_EXHAUSTED' not in message:
        return None
    size = r'([\d.]+)([KMGT])'
    units = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
    for pattern, beside in (
        (f'Used {size} of [\\d.]+[KMGT] hbm', arguments),
        (f'memory required for HLO temporaries \\({size}\\)', 0),
    ):
        if match := re.search(pattern, message):
            return max(int(float(match[1]) * units[match[2]]) - beside, 0)
    return None


def compile_for(target: Target, shape: MeshShape, job: Job) -> tuple[list[Footprint], Chip]:
    """Compiles the programs of a job for a machine, in a process of its own.

    Args:
        target: the machine.
        shape: of its mesh.
        job: the job; its class, and all that it holds, must be importable there too.

    Returns:
        The footprints, and one device of the machine.

    Raises:
        InputError: the compiler is absent, the slice does not exist, or the job cannot be.
        RuntimeError: the compiler failed.
    """
    done = subprocess.run(
        [sys.executable, '-m', 'cdjax.planning.compiling'],
        input=pickle.dumps((target, shape, job)),
        env=compiler_environment(target),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors='replace')
        raise RuntimeError(f'the compiler for {target.name} failed:\n{said[-4000:]}')
    answer = json.loads(done.stdout.splitlines()[-1])
    if 'error' in answer:
        raise InputError(answer['error'])
    footprints = [Footprint(**{**f, 'work': Work(**f['work'])}) for f in answer['footprints']]
    chip = answer['chip'] | {'peak': Peak(*answer['chip']['peak'])}
    return footprints, Chip(**chip)


def main() -> None:
    """Reads what `compile_for` sends to standard input, and prints its answer as JSON."""
    target, shape, job = pickle.load(sys.stdin.buffer)
    try:
        mesh = make_mesh(shape.fsdp, shape.tensor, devices=target_devices(target))
        footprints = [
            dataclasses.asdict(compile_program(each, mesh)) for each in job.programs(mesh)
        ]
        answer = {'footprints': footprints, 'chip': dataclasses.asdict(target.chip)}
    except InputError as error:
        answer = {'error': str(error)}
    print(json.dumps(answer))


if __name__ == '__main__':
    main()
