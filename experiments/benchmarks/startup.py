"""Seconds to import the package, and to a first masked pass with a cold and a warm cache."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.measure import ROOT

IMPORT = 'import cdjax.models, cdjax.inference, cdjax.losses'
FIRST = """
import jax
from cdjax.models import Edit, Llama
from experiments.benchmarks.subject import SHAPES
model = jax.jit(lambda key: Llama(SHAPES['small'], key))(jax.random.key(0))
run = jax.jit(lambda m, t: m(t, edits={'neurons': Edit(scale=0.5)}, logits_at=-1)[0])
run(model, jax.numpy.ones((64, 8), int)).block_until_ready()
"""


def run(workdir: Path, *, rounds: int) -> dict[str, Any]:
    """Measures processes of their own, in turn: wall seconds, median and least, and CPU seconds."""
    programs = {
        'python': 'pass',
        'import jax': 'import jax',
        'import': IMPORT,
        'a launcher, to its --help': 'import experiments.pipeline',
    }
    taken = {name: [] for name in (*programs, 'first pass, cold', 'first pass, warm')}
    for number in range(rounds):
        for name, program in programs.items():
            taken[name].append(_seconds(program, {}))
        cache = {
            'JAX_COMPILATION_CACHE_DIR': str(workdir / f'cache-{number}'),
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        }
        for name in ('first pass, cold', 'first pass, warm'):
            taken[name].append(_seconds(FIRST, cache))
    cases = {}
    for name, both in taken.items():
        wall, cpu = zip(*both, strict=True)
        found = {'median': sorted(wall)[len(wall) // 2], 'least': min(wall), 'cpu': min(cpu)}
        cases[name] = {'seconds': {'cdjax': found}}
    return {'cases': cases}


def _seconds(program, variables):
    """Returns wall and CPU seconds of a process."""
    cpu = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    start, cpu_start = time.perf_counter(), cpu()
    subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, env={**os.environ, **variables}, check=True
    )
    return time.perf_counter() - start, cpu() - cpu_start
