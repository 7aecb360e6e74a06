"""Machines to plan for, and how to compile for them without having one.

The real compiler of a TPU or GPU runs on any CPU machine: `jax.experimental.topologies` gives
devices that exist in name only, and programs are compiled, not run. The compiler's package may
disturb a JAX that runs on this machine (libtpu looks for a TPU, and complains), so it lives in a
folder of its own and is seen by the compiling process alone.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cdjax.errors import InputError
from cdjax.parallel.hardware import PEAK_FLOPS, Peak

GIB = 2**30

# Where `compiler_environment` looks for compilers that are not installed: a folder of the current
# one, filled by `pip install --target`.
COMPILERS_FOLDER = '.compilers'

# What a compiler is called when it is installed; CUDA's by its major version.
_COMPILERS = {'tpu': ('libtpu',), 'cuda': ('jax_cuda13_plugin', 'jax_cuda12_plugin')}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a machine.

    Attributes:
        kind: JAX's `device_kind`.
        memory: bytes that a program may use.
        bandwidth: of that memory, bytes a second.
        interconnect: bytes a second that it receives over all links at once; vendors' figures.
        peak: dense FLOP/s.
    """

    kind: str
    memory: float
    bandwidth: float
    interconnect: float
    peak: Peak


def _chip(kind: str, memory_gib: float, bandwidth: float, interconnect: float) -> Chip:
    return Chip(kind, memory_gib * GIB, bandwidth, interconnect, PEAK_FLOPS[kind])


# TPU memory is what the compiler lets a program have, less than what is on the chip.
CHIPS = {
    'v5e': _chip('TPU v5 lite', 15.75, 819e9, 180e9),
    'v5p': _chip('TPU v5', 95.74, 2765e9, 540e9),
    'v6e': _chip('TPU v6 lite', 31.25, 1640e9, 360e9),
    'h100': _chip('NVIDIA H100 80GB HBM3', 79.6, 3350e9, 450e9),
    'h200': _chip('NVIDIA H200', 141.0, 4800e9, 450e9),
}

_TPU = re.compile(r'(v5e|v5p|v6e):(\d+(?:x\d+){1,2})')
_GPU = re.compile(r'(h100|h200)x([1-8])')
_CPU = re.compile(r'cpu(?::(\d+))?')


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine to plan for.

    Attributes:
        name: as the user wrote it.
        platform: 'tpu', 'cuda' or 'cpu'.
        topology: 'v5e:4x4' on a TPU, 'h200' or 'h100' on GPUs, '' on a CPU.
        num_devices: devices of the machine.
    """

    name: str
    platform: str
    topology: str
    num_devices: int

    @property
    def chip(self) -> Chip:
        """One device; on a CPU this machine's share, measured."""
        if self.platform == 'cpu':
            return _this_cpu(self.num_devices)
        return CHIPS[self.topology.split(':')[0]]


def parse_target(name: str) -> Target:
    """Returns the machine that a name stands for.

    Args:
        name: 'v5e:4x4', 'v6e:2x2', 'v5p:2x2x4' (chips along each axis of a slice), 'h200x8' (one
            node), 'cpu' or 'cpu:8' (this machine, as that many simulated devices).

    Raises:
        InputError: the name is none of these.
    """
    if match := _TPU.fullmatch(name):
        sides = [int(side) for side in match[2].split('x')]
        axes = 3 if match[1] == 'v5p' else 2
        if len(sides) != axes or min(sides) < 1:
            example = 'v5p:2x2x4' if axes == 3 else f'{match[1]}:4x4'
            raise InputError(
                f'target={name}: slices of {match[1]} have {axes} sides of at least 1, as '
                f'{example} has'
            )
        count = 1
        for side in sides:
            count *= side
        return Target(name, 'tpu', name, count)
    if match := _GPU.fullmatch(name):
        return Target(name, 'cuda', match[1], int(match[2]))
    if (match := _CPU.fullmatch(name)) and int(match[1] or 1) >= 1:
        return Target(name, 'cpu', '', int(match[1] or 1))
    raise InputError(
        f'target={name} is no machine that can be planned for: write a TPU slice (v5e:4x4, '
        'v6e:4x4, v5p:2x2x4), a GPU node (h200x8, h100x8), cpu or cpu:8'
    )


def compiler_packages(target: Target) -> list[str]:
    """Returns the pip requirements of a target's compiler, those that the installed jax pins."""
    if target.platform == 'tpu':
        pins = importlib.metadata.requires('jax') or []
        return [pin.split(';')[0].strip() for pin in pins if pin.startswith('libtpu')]
    if target.platform == 'cuda':
        version = importlib.metadata.version('jaxlib')
        return [f'jax-cuda12-{part}=={version}' for part in ('plugin', 'pjrt')]
    return []


def compiler_environment(target: Target) -> dict[str, str]:
    """Returns the environment in which a process can compile for a target.

    Raises:
        InputError: the compiler is neither installed nor in `.compilers`.
    """
    environment = dict(os.environ, JAX_PLATFORMS='cpu')
    if target.platform == 'cpu':
        return environment
    modules = _COMPILERS[target.platform]
    folder = Path(COMPILERS_FOLDER).resolve()
    if any((folder / module).is_dir() for module in modules):
        old = environment.get('PYTHONPATH')
        environment['PYTHONPATH'] = f'{folder}{os.pathsep}{old}' if old else str(folder)
    elif not any(importlib.util.find_spec(module) for module in modules):
        packages = ' '.join(f"'{package}'" for package in compiler_packages(target))
        raise InputError(
            f'target={target.name} needs its compiler: pip install --no-deps '
            f'--target {COMPILERS_FOLDER} {packages}'
        )
    if target.platform == 'tpu':
        # Not a TPU VM: no metadata server is asked who the workers are. These belong into the
        # process that compiles only; on a real TPU VM they would hide its TPU.
        environment |= {
            'TPU_SKIP_MDS_QUERY': '1',
            'TPU_WORKER_HOSTNAMES': 'localhost',
            'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
            'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        }
    if target.platform == 'cuda':
        # Without a GPU nothing tries which tiles suit a product, and Triton may find none.
        flags = environment.get('XLA_FLAGS', ''), '--xla_gpu_enable_triton_gemm=false'
        environment['XLA_FLAGS'] = ' '.join(flags).strip()
    return environment


def target_devices(target: Target) -> Sequence[Any]:
    """Returns the devices to compile for; in a process started with `compiler_environment`.

    Raises:
        InputError: there is no such slice.
    """
    if target.platform == 'cpu':
        jax.config.update('jax_num_cpu_devices', target.num_devices)
        return jax.devices()
    from jax.experimental import topologies

    try:
        if target.platform == 'tpu':
            single = {'chips_per_host_bounds': [1, 1, 1]} if target.num_devices == 1 else {}
            topology = topologies.get_topology_desc(target.topology, 'tpu', **single)
        else:
            topology = topologies.get_topology_desc(
                target.topology,
                platform='cuda',
                topology=f'1x1x{target.num_devices}',
                target_config=_hopper_config(CHIPS[target.topology]),
            )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f'target={target.name}: {str(error).splitlines()[0]}') from error
    return topology.devices


def _hopper_config(chip: Chip) -> str:
    """Returns XLA's description of a Hopper GPU, a `GpuTargetConfigProto` as text."""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {chip.bandwidth:.0f} l2_cache_size: 52428800
  device_memory_size: {chip.memory:.0f}
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.kind}"
"""


@functools.cache
def _this_cpu(num_devices: int) -> Chip:
    """Returns this machine's share for one of `num_devices` devices, its rates measured."""

    @jax.jit
    def product(x):
        return x @ x

    @jax.jit
    def copy(x):
        return x + 1

    def seconds(run, x):
        run(x).block_until_ready()
        start = time.perf_counter()
        for _ in range(3):
            run(x).block_until_ready()
        return (time.perf_counter() - start) / 3

    peak = 2 * 1024**3 / seconds(product, jnp.ones((1024, 1024)))
    large = jnp.ones(2**24)
    bandwidth = 2 * large.nbytes / seconds(copy, large)
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    share = 1 / num_devices
    # Of float32, the faster of the two on a CPU.
    of_device = Peak(peak * share, peak * share)
    return Chip('cpu', memory * share, bandwidth * share, bandwidth * share, of_device)
