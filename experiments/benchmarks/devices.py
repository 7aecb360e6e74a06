"""What a training step costs on several simulated devices, which share the cores of the CPU."""

import json
import sys
from collections.abc import Sequence

import jax

from cdjax.models import LlamaConfig
from cdjax.parallel.mesh import make_mesh
from experiments.benchmarks.measure import compare, in_a_process
from experiments.benchmarks.training import student_steps

# Wide enough that products count, and rows for every device.
STUDENT, ROWS = LlamaConfig(1024, 256, 1024, 5, 8, 4, 32), 128


def cpu_seconds(sizes: Sequence[int], rounds: int) -> list[float]:
    """Returns the least CPU seconds of a step, of all devices together, by number of devices.

    In a process of its own: devices are simulated before JAX has started, or not at all.
    """
    return in_a_process(__name__, json.dumps([list(sizes), rounds]))


def measure(sizes: Sequence[int], rounds: int) -> list[float]:
    """Returns what `cpu_seconds` does, on the devices of this process."""
    meshes = [make_mesh(devices=jax.devices()[:n]) for n in sizes]
    calls = {str(mesh.size): student_steps(STUDENT, STUDENT, ROWS, mesh=mesh) for mesh in meshes}
    seconds = compare(calls, rounds)['seconds']
    return [seconds[str(n)]['cpu'] for n in sizes]


def main() -> None:
    """Measures what its argument says, and prints it as JSON."""
    sizes, rounds = json.loads(sys.argv[1])
    jax.config.update('jax_num_cpu_devices', max(sizes))
    print(json.dumps(measure(sizes, rounds)))


if __name__ == '__main__':
    main()
