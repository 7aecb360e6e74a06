"""Times of several functions that do the same, taken in turn, and the limits of the machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.precision import exact_products

OURS = 'cdjax'
ROOT = Path(__file__).parents[2]


def compare(
    functions: Mapping[str, Callable[[], Any]], rounds: int, *, base: str = OURS
) -> dict[str, Any]:
    """Times functions in turn, so that what else the machine does falls on all alike.

    Args:
        functions: by name, each blocking until its result is there; the first call, which may
            compile, is not counted.
        rounds: calls of each.
        base: the function that ratios are over.

    Returns:
        `seconds`: by name the `median`, `least` and `cpu` (the least CPU time of a call, over all
        threads: on a machine that is shared it is steadier). `ratios`: for each other its time
        over that of `base`, `median`, `low` and `high` over the rounds, and `cpu`.
    """
    for function in functions.values():
        function()
    wall, cpu = ({name: [] for name in functions} for _ in range(2))
    for _ in range(rounds):
        for name, function in functions.items():
            at, cpu_at = time.perf_counter(), time.process_time()
            function()
            wall[name].append(time.perf_counter() - at)
            cpu[name].append(time.process_time() - cpu_at)
    seconds = {
        name: {'median': float(np.median(taken)), 'least': min(taken), 'cpu': min(cpu[name])}
        for name, taken in wall.items()
    }
    ratios = {
        name: _ratio(taken, wall[base], min(cpu[name]) / min(cpu[base]))
        for name, taken in wall.items()
        if name != base and base in wall
    }
    return {'seconds': seconds, 'ratios': ratios}


def _ratio(taken, of_base, cpu):
    by_round = np.array(taken) / np.array(of_base)
    low, high = by_round.min(), by_round.max()
    return {
        'median': float(np.median(by_round)),
        'low': float(low),
        'high': float(high),
        'cpu': cpu,
    }


def machine(dtype: str = 'float32') -> dict[str, Any]:
    """Returns what this machine can do a second: products in `dtype`, and copies.

    Copies are those of the host on a CPU, and within the memory of an accelerator.
    """
    on_cpu = jax.default_backend() == 'cpu'
    size = 1024 if on_cpu else 8192
    with exact_products(dtype):
        product = (
            jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((size, size), dtype)).compile()
        )
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    if on_cpu:
        source = np.ones(1 << 25, np.float32)
        target = np.empty_like(source)
        copy = lambda: np.copyto(target, source)
    else:
        source, add = jnp.ones(1 << 28, jnp.float32), jax.jit(lambda x: x + 1)
        copy = lambda: jax.block_until_ready(add(source))
    runs = {'product': lambda: jax.block_until_ready(product(x)), 'copy': copy}
    found = compare(runs, rounds=9)['seconds']
    return {
        'device': jax.devices()[0].device_kind,
        'cores': len(os.sched_getaffinity(0)),
        'dtype': dtype,
        'flops_per_second': 2 * size**3 / found['product']['least'],
        'flops_per_cpu_second': 2 * size**3 / found['product']['cpu'],
        'bytes_per_second': 2 * source.nbytes / found['copy']['least'],
    }


def in_a_process(module: str, *words: str, given: bytes = b'') -> Any:
    """Runs a module in a process of its own, and returns what its last line says as JSON.

    Args:
        module: as `python -m` takes it.
        *words: its arguments.
        given: its standard input.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    command = [sys.executable, '-m', module, *words]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors='replace')
        raise RuntimeError(f'{" ".join(command)} failed:\n{said[-4000:]}')
    return json.loads(done.stdout.splitlines()[-1])


def against_limit(
    flops: float, found: Mapping[str, Any], limit: Mapping[str, Any], *, program: str = OURS
) -> dict[str, Any]:
    """Returns the rate of a program's calls, and its ratio to the products of the machine.

    By CPU seconds on a CPU, where others may use the machine as well; by the clock elsewhere.

    Args:
        flops: of the products that a call needs.
        found: what `compare` returns.
        limit: what `machine` returns.
        program: whose calls.
    """
    ours = found['seconds'][program]
    if jax.default_backend() == 'cpu':
        rate, most = flops / ours['cpu'], limit['flops_per_cpu_second']
    else:
        rate, most = flops / ours['median'], limit['flops_per_second']
    return {'limit_of': program, 'flops': flops, 'rate': rate, 'of_limit': rate / most}


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Returns b of `seconds = a * sizes ** b`, fitted to the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
