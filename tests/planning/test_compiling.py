"""Compiled programs are weighed right: against sums by hand, and against arrays that exist."""

import subprocess

import jax
import jax.numpy as jnp
import pytest
from compiling_here import compile_here
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cdjax.errors import InputError
from cdjax.models import LlamaConfig
from cdjax.models.flops import forward_flops
from cdjax.parallel.mesh import make_mesh
from cdjax.planning import compiling
from cdjax.planning.discovery import DiscoveryJob
from cdjax.planning.fitting import MeshShape
from cdjax.planning.job import Program
from cdjax.planning.roofline import Work, llama_work
from cdjax.planning.targets import CHIPS, parse_target

pytestmark = pytest.mark.optimised

NOTHING = Work(0, 0, 0, 0)
JOB = DiscoveryJob(LlamaConfig(16, 8, 8, 1, 1, 1, 8), length=3, num_problems=4)


def shape_of(mesh, shape, spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def test_bytes_of_a_device_are_those_of_real_arrays():
    mesh = make_mesh(4, 2)
    tree = {
        'split': shape_of(mesh, (8, 6, 4), P('fsdp', 'tensor')),
        'everywhere': shape_of(mesh, (3,), P(), jnp.bfloat16),
    }
    assert compiling.device_bytes(tree) == 2 * 3 * 4 * 4 + 3 * 2
    arrays = jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding), tree)
    of_device = sum(x.addressable_shards[5].data.nbytes for x in jax.tree.leaves(arrays))
    assert compiling.device_bytes(arrays) == of_device


def test_footprint_of_a_program_with_known_memory():
    """A donated argument keeps its place, and a product needs both its factors."""
    mesh = make_mesh(8)
    x = shape_of(mesh, (8 * 512, 512), P('fsdp'))
    y = shape_of(mesh, (512, 512), P())
    jitted = jax.jit(lambda x, y: (x + 1, jnp.sin(x) @ jnp.sin(y)), donate_argnums=0)
    program = Program('p', jitted, (x, y), {'parameters': x, 'batch': y}, NOTHING)
    found = compiling.compile_program(program, mesh)
    mib = 2**20
    assert found.kinds == {'parameters': mib, 'batch': mib}
    assert found.results == pytest.approx(mib, rel=0.01), 'x + 1 takes the place of x'
    assert 2 * mib <= found.temporaries <= 2.5 * mib, 'sin(x) and sin(y)'
    assert found.total == 2 * mib + found.results + found.temporaries


def test_a_leaf_without_a_kind_is_a_mistake():
    mesh = make_mesh(8)
    x = shape_of(mesh, (8,), P())
    program = Program('p', jax.jit(lambda x, y: x), (x, x), {'batch': x}, NOTHING)
    with pytest.raises(AssertionError, match='kinds'):
        compiling.compile_program(program, mesh)


class Refused:
    """A jitted function whose compiler says that there is no memory."""

    def __init__(self, message):
        self.message = message

    def lower(self, *_):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    ('message', 'total'),
    [  # The two wordings of libtpu 0.0.42.
        (
            'Compilation failure: Ran out of memory in memory space hbm. Used 20.25G of 15.75G '
            'hbm. Exceeded hbm capacity by 4.50G.',
            20.25 * 2**30,
        ),
        (
            'Ran out of memory on HBM, the total memory required for HLO temporaries (24.88G) '
            'exceeds available HBM (15.75G).',
            24.88 * 2**30 + 4 * 2**20,
        ),
    ],
)
def test_a_program_that_the_compiler_refuses_is_weighed_by_its_message(message, total):
    mesh = make_mesh(8)
    x = shape_of(mesh, (2**20,), P())
    refused = Refused(f'RESOURCE_EXHAUSTED: {message}')
    program = Program('p', refused, (x,), {'parameters': x}, NOTHING)
    assert compiling.compile_program(program, mesh).total == int(total)


def test_a_compiler_that_fails_for_another_reason_is_heard():
    mesh = make_mesh(8)
    x = shape_of(mesh, (2**20,), P())
    with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
        compiling.compile_program(
            Program('p', Refused('INTERNAL: bug'), (x,), {'parameters': x}, NOTHING), mesh
        )


def test_a_broken_compiler_is_not_taken_for_a_user_mistake(monkeypatch):
    broken = lambda *args, **kwargs: subprocess.CompletedProcess(args, 134, b'', b'Fatal: libtpu')
    monkeypatch.setattr(subprocess, 'run', broken)
    with pytest.raises(RuntimeError, match='Fatal: libtpu'):
        compiling.compile_for(parse_target('cpu'), MeshShape(1, 1), JOB)


def test_work_of_a_model_by_hand():
    """Two layers, d 4, F 6, H 2, J 1, h 2, V 10, untied; over 2 x 2 devices."""
    config = LlamaConfig(10, 4, 6, 2, 2, 1, 2)
    rows, length = 4, 8
    blocks = 2 * (4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 6)
    parameters = blocks + 2 * 10 * 4
    forward = llama_work(config, rows, length, 1, fsdp=2, tensor=2, backward='none')
    assert forward.flops == forward.useful_flops == forward_flops(config, rows, length, rows)
    # Half of the bf16 weights of a tensor slice come from the other fsdp device; the outputs of
    # attention and MLP, of 2 rows, are summed over two tensor devices in each layer.
    sums = 2 * 2 * 2 * (1 / 2) * (2 * 8 * 4) * 2
    assert forward.received == 2 * parameters / 2 / 2 + sums

    step = llama_work(config, rows, length, 1, fsdp=2, tensor=2, backward='weights', remat='full')
    assert step.useful_flops == 3 * forward.flops
    assert step.flops == step.useful_flops + forward_flops(config, rows, length, 0)
    # Three passes, and float32 gradients once.
    assert step.received == 3 * forward.received + 4 * parameters / 2 / 2
    alone = llama_work(config, rows, length, 1, fsdp=1, tensor=1, backward='weights')
    assert alone.received == 0


def test_seconds_are_work_over_rate():
    chip = CHIPS['v5e']
    seconds = Work(1.0, 16 * 197e12, 2 * 819e9, 3 * 180e9).seconds(chip, 16)
    assert seconds == pytest.approx({'arithmetic': 1.0, 'memory': 2.0, 'network': 3.0})


@pytest.mark.parametrize(('machine', 'slower'), [('v5e', 6), ('h200', 989 / 67)])
def test_products_of_float32_take_their_time(machine, slower):
    """Six of bfloat16 for each on a TPU; on a GPU those outside the tensor cores."""
    config = LlamaConfig(10, 4, 6, 2, 2, 1, 2)
    least = lambda compute_bytes: llama_work(
        *(config, 4, 8, 1), fsdp=1, tensor=1, backward='weights', compute_bytes=compute_bytes
    ).seconds(CHIPS[machine], 1)['arithmetic']
    assert least(4) == pytest.approx(slower * least(2))


def test_input_errors_come_through_the_other_process(monkeypatch):
    compile_here(monkeypatch)
    with pytest.raises(InputError, match=r'fsdp=3'):
        compiling.compile_for(parse_target('cpu:8'), MeshShape(3, 1), JOB)
    with pytest.raises(InputError, match=r'discovery_batch_size=250 .* multiple of 8'):
        compiling.compile_for(parse_target('cpu:8'), MeshShape(8, 1), JOB.with_batch(250))
