"""What the compiler makes of the programs that cost: nothing is gathered, widened, filled, copied.

The real compilers of a v5e and of four H200, without them, at shapes of which each size is told
from the others.
"""

import json
import math
import os
import subprocess
import sys

import hlo
import pytest
from compiling_here import TPU_QUICKLY

from cdjax.errors import InputError
from cdjax.planning.targets import compiler_environment, parse_target

TARGETS = ('v5e:2x2', 'h200x4')
L, B, T, F, d = 6, 32, 8, 2048, 512
COMPILES = f"""
import json, sys
import jax, jax.numpy as jnp
from cdjax.distillation.alignment import Alignment
from cdjax.inference.predictions import predict_rows
from cdjax.inference.rows import jit_rows
from cdjax.models import LlamaConfig
from cdjax.parallel.mesh import make_mesh
from cdjax.planning.discovery import DiscoveryJob
from cdjax.planning.distillation import DistillationJob
from cdjax.planning.job import abstract_neurons, abstract_rows, abstract_weights
from cdjax.planning.targets import parse_target, target_devices
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.objectives import AnySize

L, B, T, F, K = {L}, {B}, {T}, {F}, 3
teacher = LlamaConfig(640, {d}, F, L, 8, 4, 64)
student = LlamaConfig(640, {d} // 2, F // 2, L, 4, 2, 64)
mesh = make_mesh(2, 2, devices=target_devices(parse_target(sys.argv[1])))

def predict():
    row = lambda *trailing: abstract_rows(mesh, 'rows', (B, *trailing), jnp.int32)
    rows = {{name: row() for name in ('lengths', 'answers', 'counterfactual_answers', 'classes')}}
    constants = {{
        'model': abstract_weights(teacher, 'bfloat16', mesh),
        'masks': abstract_neurons(mesh, (K, L, F), jnp.bool_),
        'fill': abstract_neurons(mesh, (L, T, F)),
    }}
    counts = abstract_rows(mesh, 'counts', (B,), jnp.bool_)
    jitted = jit_rows(predict_rows('neurons', None), mesh)
    return jitted, (constants, {{'tokens': row(T), **rows}}, counts)

def discovery():
    config = DiscoveryConfig(num_classes=K, batch_size=B, objective=AnySize(sizes=2))
    program = DiscoveryJob(teacher, T, num_problems=B, config=config).programs(mesh)[-1]
    return program.step, program.arguments

def distillation():
    config = DistillationConfig(batch_size=B, compute_dtype='bfloat16')
    alignment = Alignment(pairs=((1, 1),), num_classes=K)
    job = DistillationJob(student, teacher, T, B, config=config, alignment=alignment)
    program = job.programs(mesh)[-1]
    return program.step, program.arguments

texts = {{}}
for make in (predict, discovery, distillation):
    step, arguments = make()
    with jax.set_mesh(mesh):
        texts[make.__name__] = step.lower(*arguments).compile().as_text()
json.dump(texts, sys.stdout)
"""


@pytest.fixture(scope='module', params=TARGETS)
def texts(request):
    """The program of each job by name, as the compiler of a machine leaves it."""
    target = parse_target(request.param)
    try:
        environment = compiler_environment(target)
    except InputError as absent:
        # That of a GPU is half a gigabyte, which `make compilers` does not fetch.
        if os.environ.get('CI') and target.platform == 'tpu':
            raise
        pytest.skip(str(absent))
    if target.platform == 'tpu':
        environment |= TPU_QUICKLY
    done = subprocess.run(
        [sys.executable, '-c', COMPILES, target.name],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def gathered(text):
    return hlo.results(text.splitlines(), 'all-gather', 'all-gather-done')


def of_matrices(found):
    """Yields of dtypes and shapes those of one layer's matrix of the MLP, or of a part of it."""
    parts = lambda n: (n, n // 2, n // 4)
    matrices = [{a, b} for a in parts(d) for b in parts(F)]
    for dtype, shape in found:
        inner = [n for n in shape if n > 1]
        if len(inner) == 2 and {*inner} in matrices:
            yield dtype, shape


@pytest.mark.parametrize('name', ['predict', 'discovery', 'distillation'])
def test_weights_are_gathered_a_layer_at_a_time_in_bfloat16(texts, name):
    found = gathered(texts[name])
    assert {dtype for dtype, _ in of_matrices(found)} == {'bf16'}
    assert [shape for _, shape in found if L in shape] == [], 'all layers at once'


def test_frozen_weights_are_never_widened(texts):
    wide = {
        name: {s for dtype, s in of_matrices(hlo.results(text.splitlines())) if dtype == 'f32'}
        for name, text in texts.items()
    }
    assert wide['distillation'], 'but those of a student, which are float32'
    assert not wide['predict'] | wide['discovery']


@pytest.mark.parametrize('name', ['predict', 'discovery'])
def test_no_fill_is_dense(texts, name):
    """No array of all layers, rows, positions and neurons; but what a backward pass keeps of it."""
    every = hlo.results(texts[name].splitlines())
    kept = {'bf16'} if name == 'discovery' else set()
    whole = L * (B // 2) * T * (F // 2)
    dense = [
        s for dtype, s in every if {L, T} <= {*s} and math.prod(s) >= whole and dtype not in kept
    ]
    assert dense == []
    assert ('f32', (L, 1, T, F // 2)) in every, 'the fill itself'


@pytest.mark.parametrize('name', ['predict', 'discovery', 'distillation'])
def test_stacked_weights_are_not_copied(texts, name):
    # A loop's buffers begin as copies of zeros, which are broadcast.
    lines = [line for line in texts[name].splitlines() if 'copy(%broadcast' not in line]
    copies = hlo.results(lines, 'copy')
    assert copies
    assert [s for _, s in copies if L in s and math.prod(s) >= L * d * F // 16] == []
