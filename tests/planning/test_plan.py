"""Plans of distillations: shapes against real states, the search, and the real TPU compiler."""

import dataclasses
import json
import math
import os
import pickle
import re

import jax
import numpy as np
import pytest
from artefacts import disagreements
from compiling_here import TPU_QUICKLY, compile_here
from launchers import run_launchers

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.interchange import SOURCES
from cdjax.errors import InputError
from cdjax.losses import AnySizeWeights
from cdjax.models import Llama, LlamaConfig
from cdjax.models.flops import forward_flops
from cdjax.parallel.mesh import make_mesh, path_name
from cdjax.planning import plan as planning
from cdjax.planning import targets
from cdjax.planning.compiling import Footprint, compile_for, device_bytes
from cdjax.planning.discovery import DiscoveryJob
from cdjax.planning.distillation import DistillationJob
from cdjax.planning.fitting import MeshShape
from cdjax.planning.job import abstract_state
from cdjax.planning.roofline import Work
from cdjax.planning.targets import GIB, compiler_environment, parse_target
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig, student_flops
from cdjax.training.objectives import AnySize, FixedDensity, Published
from cdjax.training.optimizer import OptimizerConfig, make_optimizer
from cdjax.training.state import init_state

TEACHER = LlamaConfig(128, 64, 96, 3, 4, 4, 16)
STUDENT = LlamaConfig(128, 32, 48, 2, 2, 2, 16)
JOB = DistillationJob(
    STUDENT,
    TEACHER,
    length=6,
    num_problems=100,
    config=DistillationConfig(batch_size=16, compute_dtype='bfloat16', remat='full'),
    alignment=Alignment(((1, 2),), num_classes=3),
)


def changed(job, **changes):
    """The job with other values, of its configuration where that has such fields."""
    of_config = {k: changes.pop(k) for k in list(changes) if hasattr(job.config, k)}
    config = dataclasses.replace(job.config, **of_config)
    return dataclasses.replace(job, config=config, **changes)


def test_abstract_state_is_that_of_a_real_run():
    mesh = make_mesh(2, 4)
    tx = make_optimizer(OptimizerConfig(10, 1e-3, warmup_steps=1, weight_decay=0.1))
    init = lambda key: Llama(dataclasses.replace(STUDENT, num_layers=1), key)
    real = init_state(init, tx, jax.random.key(0), mesh)
    abstract = abstract_state(init, tx, mesh)
    paths, _ = jax.tree_util.tree_flatten_with_path(real)
    for (path, a), b in zip(paths, jax.tree.leaves(abstract), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path_name(path)
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim), path_name(path)
    assert device_bytes(abstract.params) == device_bytes(real.params)


def run(program, mesh):
    """Feeds a program with real arrays of its shapes."""

    def real(shape):
        if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(0), shape.sharding)
        values = np.random.default_rng(0).uniform(1, 2, shape.shape)
        return jax.device_put(values.astype(shape.dtype), shape.sharding)

    with jax.set_mesh(mesh):
        return program.step(*jax.tree.map(real, program.arguments))


def lower(program, mesh):
    with jax.set_mesh(mesh):
        return program.step.lower(*program.arguments)


def shapes(program, mesh):
    """Returns those of its results, where a program of the same parts is compiled elsewhere."""
    return lower(program, mesh).out_info


def size(*trees):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(trees))


SELECTIVE = AnySize(
    counterfactual=0.5, specific=0.3, weights=AnySizeWeights(completeness=1.0, selectivity=1.0)
)


DISCOVERY = DiscoveryJob(
    dataclasses.replace(TEACHER, num_layers=2),
    length=6,
    num_problems=100,
    config=DiscoveryConfig(batch_size=24),
)


@pytest.mark.parametrize(
    ('changes', 'call'),
    [
        ({}, shapes),
        ({'num_classes': 1, 'recompute_logits': True}, shapes),
        (
            {
                'student': dataclasses.replace(STUDENT, num_layers=1),
                'microbatches': 2,
                'objective': FixedDensity(hidden=8),
            },
            run,
        ),
        ({'objective': Published()}, shapes),
    ],
    ids=['any size', 'recomputed', 'joint', 'published'],
)
def test_the_programs_of_a_discovery_run(changes, call):
    job, mesh = changed(DISCOVERY, **changes), make_mesh(4, 2)
    check_discovery(job, job.programs(mesh), mesh, call)


def check_discovery(job, programs, mesh, call=run):
    """Calls the programs of a discovery."""
    assert pickle.loads(pickle.dumps(job)) == job
    *passes, step = programs
    said = [call(program, mesh) for program in passes]
    stored = [
        {'logits': logits, 'activations': neurons}[kind]
        for logits, neurons in said[::2]
        for kind in job.stores
    ]
    assert job.store_bytes == size(stored)
    for sums, (shape, _) in zip(said[1::2], job.models.values(), strict=True):
        assert sums.shape == (shape.num_layers, 6, shape.intermediate_size)
    state, metrics = call(step, mesh)
    assert {job.config.objective.task, 'loss'} <= metrics.keys()
    assert call is shapes or int(state.step) == 2
    assert state.params['masks'].keys() == job.models.keys()
    assert ('classifier' in state.params) == (job.config.num_classes > 1)


def test_a_discovery_split_over_neurons_moves_none_of_them():
    """Nor does it run less than others, by the objective that has most parts."""
    wide = dataclasses.replace(DISCOVERY.teacher, num_layers=1, intermediate_size=1040)
    job = changed(DISCOVERY, teacher=wide, objective=SELECTIVE, teacher_dtype='float32')
    mesh = make_mesh(1, 8)
    *passes, step = job.programs(mesh)
    compiled = lower(step, mesh).compile()
    check_discovery(job, [*passes, dataclasses.replace(step, step=compiled)], mesh)
    moved = re.findall(
        r'= (\S+) (?:all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\(',
        compiled.as_text(),
    )
    assert len(moved) > 5
    sizes = {int(n) for shape in moved for n in re.findall(r'\d+', shape.partition('{')[0])}
    assert not sizes & {1040, 1040 // 8}, 'as wide as all neurons of a layer, or as a device has'


def test_a_batch_of_a_discovery_that_does_not_divide_is_named():
    job = changed(DISCOVERY, microbatches=2)
    with pytest.raises(InputError, match=r'discovery_batch_size=24 .*multiple of 16'):
        job.programs(make_mesh(8, 1))


def test_the_programs_of_a_plan_run():
    """What is compiled is what a run does: fed with real arrays of those shapes it trains."""
    mesh = make_mesh(4, 2)
    teacher_pass, student_step = JOB.programs(mesh)
    logits, neurons = run(teacher_pass, mesh)
    state, metrics = run(student_step, mesh)
    rows = 100  # of 100 problems and 512 a batch, 100 divide over 4
    assert logits.shape == (rows, TEACHER.vocab_size)
    assert neurons.shape == (rows, 1, TEACHER.intermediate_size), 'the last layer is paired'
    assert neurons.dtype == 'bfloat16'
    assert JOB.store_bytes == size(logits, neurons)
    assert {'task', 'alignment', 'loss'} <= metrics.keys()
    assert int(state.step) == 2


def test_a_plan_of_another_alignment_runs():
    """Heads at two positions, in classes that remember; of several tokens the top k is stored."""
    alignment = Alignment(
        ((0, 0), (1, 2)), site='head_out', positions=(1, 3), memory=5, num_classes=3
    )
    job, mesh = changed(JOB, alignment=alignment, top_k=5, answer_tokens=3), make_mesh(4, 2)
    teacher_pass, student_step = job.programs(mesh)
    top_k, heads = run(teacher_pass, mesh)
    assert size(top_k) == 100 * 3 * 5 * 8
    assert heads.shape == (100, 2, 2, TEACHER.num_heads, TEACHER.head_dim)
    assert job.store_bytes == size(top_k, heads)
    state, metrics = run(student_step, mesh)
    assert metrics['loss'].shape == ()
    assert np.isfinite(metrics['alignment'])
    assert len(state.memory) == 2


def test_a_plan_of_an_interchange():
    """The patched teacher answers before the step, which has two passes more of the student."""
    alignment = Alignment(((1, 2),), similarity='interchange', num_classes=3)
    job, mesh = changed(JOB, alignment=alignment, remat='none'), make_mesh(4, 2)
    *passes, student_step = programs = job.programs(mesh)
    assert [program.name for program in passes] == ['teacher pass', 'patched pass']
    with jax.set_mesh(mesh):  # the functions of a run take these arguments, and need all of them
        (logits, neurons), patched, (state, metrics) = (
            jax.eval_shape(program.step, *program.arguments) for program in programs
        )
    assert patched.shape == logits.shape
    assert job.store_bytes == size((1 + SOURCES) * [logits], neurons)
    assert {'task', 'alignment', 'loss'} <= metrics.keys()
    assert jax.tree.structure(state) == jax.tree.structure(student_step.arguments[0])
    for program in programs:
        named = sum(len(jax.tree.leaves(tree)) for tree in program.kinds.values())
        assert named == len(jax.tree.leaves(program.arguments)), program.name
    of_patched, of_step = passes[1].work, student_step.work
    teacher = lambda logits: forward_flops(TEACHER, 100, 6, logits)
    assert of_patched.flops == teacher(0) + teacher(100)
    assert of_step.flops == of_step.useful_flops == student_flops(STUDENT, 16, 6, alignment)
    # Each pass gathers the weights and sums its blocks; gradients are scattered once.
    plain, step = (changed(each, remat='none').works(4, 2)[-1] for each in (JOB, job))
    parameters = 2 * 128 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 48)
    assert 3 * plain.received - step.received == 2 * 4 * parameters / 2 * (3 / 4)
    assert 2 * plain.traffic > step.traffic - plain.traffic > plain.traffic


def test_the_top_k_of_a_plan_of_several_tokens_without_alignment():
    job, mesh = changed(JOB, top_k=5, alignment=None, answer_tokens=3), make_mesh(4, 2)
    with jax.set_mesh(mesh):
        stored, (_, metrics) = (
            jax.eval_shape(program.step, *program.arguments) for program in job.programs(mesh)
        )
    assert job.store_bytes == size(stored) == 100 * 3 * 5 * 8
    assert metrics['loss'].shape == ()
    more = [
        a.useful_flops - b.useful_flops
        for a, b in zip(job.works(1, 1), changed(job, answer_tokens=1).works(1, 1), strict=True)
    ]
    # Two more products with the head for each row, of a step forwards and twice backwards.
    rows = job.rows_of_pass(1)
    assert more == [2 * 2 * 64 * 128 * rows, 3 * 2 * 2 * 32 * 128 * 16]


def test_a_discovery_of_answers_of_several_tokens():
    job = changed(DISCOVERY, answer_tokens=3)
    assert DISCOVERY.stores == ('logits',)
    assert (job.stores, job.store_bytes) == ((), 0), 'of several tokens nothing is stored'
    mesh = make_mesh(4, 2)
    *_, step = job.programs(mesh)
    _, metrics = shapes(step, mesh)
    assert metrics['loss'].shape == ()
    again = changed(DISCOVERY, recompute_logits=True)
    more = [
        a.useful_flops - b.useful_flops
        for a, b in zip(job.works(1, 1), again.works(1, 1), strict=True)
    ]
    # Two more products with the head for each row: of a step once by the whole model, and by the
    # ablated one forwards and once backwards.
    assert more == [2 * 2 * 64 * 128 * job.rows_of_pass(1), 0, 3 * 2 * 2 * 64 * 128 * 24]


def test_a_job_reaches_the_process_that_compiles_whole():
    preset = dataclasses.replace(LlamaConfig.llama32_1b(), vocab_size=128)
    job = changed(JOB, student=preset, temperature=3.0)
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'batch_size': 0}, 'batch_size=0'),
        ({'length': 0}, 'length=0'),
        ({'teacher_dtype': 'int8'}, 'teacher_dtype=int8'),
        (
            {'alignment': Alignment(((1, 2),), num_classes=3, memory=8), 'microbatches': 2},
            'row_memory=8',
        ),
        ({'batch_size': 8, 'microbatches': 4}, 'batch_size=8 in 4 microbatches is too small'),
        ({'teacher': dataclasses.replace(TEACHER, vocab_size=64)}, 'one vocabulary'),
        (
            {'alignment': Alignment(((1, 2),), similarity='interchange')},
            'similarity=interchange patches the circuits of classes',
        ),
        (
            {
                'alignment': Alignment(((1, 2),), similarity='interchange', num_classes=3),
                'answer_tokens': 2,
            },
            'similarity=interchange compares what a patch makes of an answer of one token',
        ),
    ],
)
def test_jobs_that_cannot_be(change, words):
    with pytest.raises(InputError, match=words):
        changed(JOB, **change)


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(InputError, match='multiple of 8'):
        JOB.with_batch(12).programs(make_mesh(8))


@pytest.fixture
def machine(monkeypatch):
    """A compiler by formula: a line in the batch, with a fixed part that `tensor` shrinks."""
    calls = []

    def compile_for(target, mesh, job):
        rows = job.config.batch_size
        calls.append((mesh.fsdp, mesh.tensor, rows))
        size = int((6 * GIB) / mesh.tensor + rows / mesh.fsdp * GIB / 8)
        works = [Work(1e12, 1e12, 1e9, 1e9)] * 2
        return [
            # As much as a step of 40 rows a device: it must not hide how the step grows.
            Footprint('teacher pass', {'teacher': 1 * GIB}, 0, 10 * GIB, works[0], 1.0),
            Footprint('student step', {'student': 1 * GIB}, 0, size - GIB, works[1], 1.0),
        ], target.chip

    monkeypatch.setattr(planning, 'compile_for', compile_for)
    return calls


def test_a_plan_finds_mesh_and_largest_batch(machine):
    target = parse_target('v5e:4x4')
    plan = planning.plan_job(changed(JOB, batch_size=48, num_problems=10**5), target)
    limit = 0.9 * 15.75
    mesh = plan.mesh
    assert plan.fits
    assert mesh.fsdp * mesh.tensor == 16
    best = (limit - 6 / mesh.tensor) * 8 * mesh.fsdp
    assert best * 0.95 <= plan.largest_batch <= best
    assert plan.largest_batch % mesh.fsdp == 0
    assert len(machine) <= 5
    text = planning.describe(plan)
    assert f'largest batch that fits: {plan.largest_batch}' in text
    assert text.splitlines()[-1] == 'it fits'
    written = json.loads(json.dumps(plan.to_dict()))
    assert written['programs'][1]['total'] == plan.footprints[1].total


def test_no_batch_makes_a_pass_fit_that_does_not(machine, monkeypatch):
    target = parse_target('v5e:4x4')
    large = dataclasses.replace(target.chip, memory=11 * GIB)
    monkeypatch.setitem(targets.CHIPS, 'v5e', large)
    plan = planning.plan_job(changed(JOB, batch_size=64), target)
    assert not plan.fits
    assert plan.largest_batch == 0
    assert {rows for _, _, rows in machine} == {64}


@pytest.mark.parametrize(
    ('job', 'least'),
    [
        (changed(JOB, batch_size=160, microbatches=2, num_problems=160), 8),
        (changed(JOB, batch_size=160, microbatches=2, alignment=None), 2),
        (changed(DISCOVERY, batch_size=160, num_classes=5, microbatches=2), 16),
        (
            changed(
                DISCOVERY, batch_size=160, num_classes=5, microbatches=2, objective=Published()
            ),
            20,
        ),
    ],
)
def test_where_nothing_fits_no_batch_is_tried_that_a_run_would_refuse(monkeypatch, job, least):
    tried = []

    def compile_for(target, mesh, job):
        tried.append(job.config.batch_size)
        size = 100 * GIB + job.config.batch_size
        return [Footprint('step', {'student': size}, 0, 0, Work(1, 1, 1, 1), 1.0)], target.chip

    monkeypatch.setattr(planning, 'compile_for', compile_for)
    plan = planning.plan_job(job, parse_target('v5e:1x1'))
    assert plan.largest_batch == 0
    assert min(tried) == least


def test_a_plan_goes_on_to_a_mesh_that_fits(machine):
    """At 14 rows a device of the first mesh, only one with a larger tensor axis fits."""
    target = parse_target('v5e:4x4')
    job = changed(JOB, batch_size=16 * 64, num_problems=10**5)
    plan = planning.plan_job(job, target, find_largest_batch=False)
    assert plan.largest_batch is None
    tried = [(fsdp, tensor) for fsdp, tensor, _ in machine]
    assert len(tried) == len(set(tried)) <= 3
    assert plan.fits == (plan.footprints[1].total <= 0.9 * 15.75 * GIB)

    asked = planning.plan_job(job, target, mesh=MeshShape(16, 1), find_largest_batch=False)
    assert asked.mesh == MeshShape(16, 1)
    assert planning.describe(asked).splitlines()[-1] == (
        'it fits' if asked.fits else 'it does NOT fit'
    )


def test_a_batch_for_no_mesh(machine):
    job = changed(JOB, batch_size=5)
    with pytest.raises(InputError, match='multiple of 16'):
        planning.plan_job(job, parse_target('v5e:4x4'))
    assert machine == []


def test_a_plan_for_this_cpu(monkeypatch):
    """The whole way but for the other process, without a compiler to install."""
    compile_here(monkeypatch)
    job, mesh = changed(JOB, keep_teacher=False, keep_start=True), MeshShape(4, 2)
    plan = planning.plan_job(job, parse_target('cpu:8'), mesh=mesh, find_largest_batch=False)
    assert plan.fits
    _, step = plan.footprints
    # Embedding, head, and two layers of q, k, v, o and gate, up, down in eighths; five norms whole.
    matrices = 2 * 128 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 48)
    assert step.kinds['student'] == 4 * (matrices / 8 + 5 * 32)
    assert step.kinds['first student'] == step.kinds['student']
    assert 'teacher' not in step.kinds
    counters = step.kinds['optimizer'] - 2 * step.kinds['student']
    assert 0 < counters <= 16


def test_8b_to_1b_compiles_and_fits_on_v5e_4x4(monkeypatch):
    """The real TPU compiler, without a TPU."""
    for name, value in TPU_QUICKLY.items():
        monkeypatch.setenv(name, value)
    target = parse_target('v5e:4x4')
    try:
        compiler_environment(target)
    except InputError as absent:
        if os.environ.get('CI'):
            raise
        pytest.skip(str(absent))
    config = DistillationConfig(batch_size=256, compute_dtype='bfloat16', remat='full')
    job = DistillationJob(
        LlamaConfig.llama32_1b(), LlamaConfig.llama3_8b(), 8, num_problems=10000, config=config
    )
    (teacher, student), chip = compile_for(target, MeshShape(16, 1), job)
    assert chip.kind == 'TPU v5 lite'
    for footprint in (teacher, student):
        assert footprint.total <= 0.9 * chip.memory, footprint
    # 8.030 B parameters in bf16, and 1.236 B in float32 with two moments, over 16 devices.
    assert teacher.kinds['teacher'] == pytest.approx(8.030e9 * 2 / 16, rel=1e-2)
    assert student.kinds['student'] == pytest.approx(1.236e9 * 4 / 16, rel=1e-2)
    assert student.kinds['optimizer'] == pytest.approx(1.236e9 * 8 / 16, rel=1e-2)
    assert student.temporaries > 0.5 * GIB, 'gradients at least'


def test_the_launcher_plans_for_a_recipe(tmp_path):
    """The flags of another launcher, the embedded teacher, and this CPU as two devices."""
    output = tmp_path / 'plan.json'
    command = [
        *('plan', '--target=cpu:2', '--nolargest_batch', f'--output={output}'),
        *('--recipe=experiments/recipes/demo.flags', '--batch_size=64'),
    ]
    done = run_launchers({'plan': command}, tmp_path, at_once=1)['plan']
    assert done.code == 0, done.err
    assert done.out.splitlines()[-2:] == ['it fits', f'everything is in {output}']
    written = json.loads(output.read_text())
    assert disagreements('plan', written) == []
    job = written['job']
    # From the command line, the recipe, and the problems: BOS, a, op, b, op, c, =.
    assert (job['config']['batch_size'], job['alignment']['num_classes'], job['length']) == (
        64,
        4,
        7,
    )
