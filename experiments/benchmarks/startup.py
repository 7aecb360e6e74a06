"""Seconds to import the package, and to a first masked pass with a cold and a warm cache."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
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
    """Measures processes of their own, in turn: wall seconds, median and least."""
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
    seconds = {k: {'median': sorted(v)[len(v) // 2], 'least': min(v)} for k, v in taken.items()}
    return {'cases': {name: {'seconds': {'cdjax': s}} for name, s in seconds.items()}}


def _seconds(program, variables):
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, env={**os.environ, **variables}, check=True
    )
    return time.perf_counter() - start
