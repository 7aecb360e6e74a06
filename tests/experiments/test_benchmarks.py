"""The suites of speed: what they compare is equal, and what they write is documented."""

import dataclasses
import functools
import json
import pickle

import jax
import numpy as np
import pytest
from artefacts import disagreements

from cdjax.models import LlamaConfig
from cdjax.parallel.mesh import one_device
from cdjax.run.results import to_text
from experiments.benchmarks import (
    attribution,
    demo,
    devices,
    distillation,
    forward,
    growth,
    programs,
    subject,
    sweep,
    training,
)
from experiments.benchmarks.figure import draw
from experiments.benchmarks.measure import OURS, compare, exponent, machine
from experiments.benchmarks.subject import SHAPES
from experiments.benchmarks.tables import to_markdown

TINY = LlamaConfig(16, 8, 16, 1, 2, 1, 4)
SMALL = LlamaConfig(128, 32, 64, 2, 4, 2, 8, tie_embeddings=True)


@pytest.fixture(scope='module')
def limits():
    """What this machine can do, measured once; a run measures it for each suite."""
    return machine()


@pytest.fixture(scope='module')
def make_subject():
    """Makes the model that suites share once, with its checkpoint."""
    return functools.cache(subject.make_subject)


@pytest.fixture(scope='module')
def jobs():
    return programs.make_jobs(TINY, TINY, length=4, tokens_per_pass=32, batch_size=8)


def test_an_exponent_is_that_of_a_power_law():
    assert exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2.0)


def test_calls_alternate_and_the_first_is_not_counted():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in (OURS, 'peer')}
    found = compare(runs, rounds=2)
    assert order == [OURS, 'peer'] * 3
    assert set(found['ratios']) == {'peer'}


def test_ratios_are_theirs_over_ours(monkeypatch):
    clock = iter(np.cumsum([0, 1, 0, 4, 0, 2, 0, 4.0]))  # ours 1 and 2 s, theirs 4 and 4 s
    monkeypatch.setattr('time.perf_counter', lambda: next(clock))
    monkeypatch.setattr('time.process_time', iter(np.arange(8.0)).__next__)
    found = compare({OURS: lambda: None, 'peer': lambda: None}, rounds=2)
    assert found['ratios']['peer'] == {'median': 3.0, 'low': 2.0, 'high': 4.0, 'cpu': 1.0}
    assert found['seconds'][OURS] == {'median': 1.5, 'least': 1.0, 'cpu': 1.0}


@pytest.mark.parametrize(
    ('suite', 'options'),
    [(forward, {}), (sweep, {'masks': 2}), (attribution, {})],
    ids=['forward', 'sweep', 'attribution'],
)
def test_a_suite_compares_with_transformers(
    tmp_path_factory, monkeypatch, limits, make_subject, suite, options
):
    """Within the suites, logits, neurons and scores are asserted equal to the peers'."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setattr(suite, 'make_subject', make_subject)
    monkeypatch.setattr(suite, 'machine', lambda dtype: limits)
    monkeypatch.setattr(attribution, 'KIN', {'AtP': attribution.KIN['AtP']})
    monkeypatch.setitem(SHAPES, 'small', SMALL)
    monkeypatch.setattr(sweep, 'STUDY', SMALL)
    monkeypatch.setattr(sweep, 'PROBLEMS', 16)
    found = suite.run(folder, shape='small', rows=4, rounds=1, dtype='float32', **options)
    assert 'transformers' not in found['absent']
    cases = list(found['cases'].values())
    for case in cases if suite is forward else cases[:1]:
        assert {OURS, 'transformers'} <= set(case['seconds'])
    written = json.loads(to_text({'suite': 'name', **found}))
    assert disagreements('speed', written) == []
    assert f'| {OURS} |' in to_markdown({'name': found})


def test_curves_have_their_exponents_and_are_drawn(monkeypatch):
    monkeypatch.setattr(growth, 'CURVES', {'rows': ((2, 4), 'a reason')})
    monkeypatch.setattr(growth, 'BASE', TINY)
    found = growth.run(rounds=1)
    assert disagreements('growth', json.loads(to_text({'suite': 'growth', **found}))) == []
    assert '| rows | 2, 4 |' in to_markdown({'growth': found})
    assert f'rows: {found["curves"]["rows"]["exponent"]:.2f}' in draw(found['curves'])


def test_steps_that_are_timed_are_steps():
    """They take batches of today's trainings, and go on from the state before, which is donated."""
    for call in (
        training.student_steps(TINY, TINY, 8, aligned='circuits', at_once=2),
        training.student_steps(TINY, TINY, 8, teacher=subject.random_model(TINY)),
        training.discovery_steps(TINY, 8, classes=2),
    ):
        assert all(np.isfinite(call()['loss']).all() for _ in range(2))


def test_programs_of_a_run_are_measured_in_processes_of_their_own(monkeypatch, limits, jobs):
    """The pass is, and the step behind it here, from what its process would be given."""
    start = programs.in_a_process

    def in_a_process(module, *, given):
        assert module == programs.__name__
        measurement = pickle.loads(given)
        if measurement.index == 0:
            return start(module, given=given)
        return json.loads(json.dumps(programs.measure(measurement)))

    monkeypatch.setattr(programs, 'in_a_process', in_a_process)
    monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # as here
    monkeypatch.setattr(programs, 'make_mesh', one_device)
    monkeypatch.setattr(programs, 'machine', lambda dtype: limits)
    found = programs.run({'distill': jobs['distill']}, rounds=1)
    assert set(found['programs']) == {'distill: teacher pass', 'distill: student step'}
    written = json.loads(to_text({'suite': 'programs', **found}))
    assert disagreements('programs', written) == []
    assert '| distill: student step |' in to_markdown({'programs': found})


def test_arguments_of_programs_are_what_a_run_would_give_them(jobs):
    """So the step that is measured trains: its loss is finite, and it goes on from its state."""
    with jax.set_mesh(one_device()):
        for job in jobs.values():
            *_, step = job.programs(one_device())
            state, batch, *rest = programs.random_arguments(step)
            assert (np.asarray(batch['lengths']) == 4).all()
            for _ in range(2):
                state, metrics = step.step(state, batch, *rest)
            assert np.isfinite(metrics['loss'])
            assert int(state.step) == 2


def test_devices_of_a_training_step_are_a_curve(monkeypatch):
    monkeypatch.setattr(devices, 'STUDENT', TINY)
    monkeypatch.setattr(devices, 'ROWS', 8)
    monkeypatch.setattr(devices, 'cpu_seconds', devices.measure)  # here there are several
    monkeypatch.setattr(growth, 'CURVES', {'devices of a training step': ((1, 2), 'a reason')})
    (curve,) = growth.run(rounds=1)['curves'].values()
    assert curve['sizes'] == [1, 2]
    assert min(curve['cpu_seconds']) > 0


def test_stages_of_a_demo_end_where_its_log_says_so(tmp_path, monkeypatch):
    script = tmp_path / 'experiments' / 'pipeline.py'
    script.parent.mkdir()
    lines = ('pipeline: 2 trainings', 'discover: teacher: 3 steps in 2 s', 'warning: none')
    script.write_text('\n'.join(f'print({line!r})' for line in (*lines, 'kd: 1 step in 1 s')))
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    (case,) = demo.run(tmp_path)['cases'].values()
    stages = [demo.START, 'discover: teacher', 'kd', demo.REST, demo.WHOLE]
    assert list(case['seconds']) == stages
    parts = sum(case['seconds'][name]['median'] for name in stages[:-1])
    assert parts == pytest.approx(case['seconds'][demo.WHOLE]['median'])


def test_steps_are_over_the_first_program(monkeypatch, limits):
    monkeypatch.setattr(training, 'machine', lambda: limits)
    monkeypatch.setattr(training, 'student_steps', lambda *_, **__: lambda: sum(range(1000)))
    monkeypatch.setattr(training, 'DEMO', TINY)
    monkeypatch.setitem(SHAPES, 'small', SMALL)
    found = training.run(shape='small', rows=16, rounds=1)
    assert disagreements('speed', json.loads(to_text({'suite': 'training', **found}))) == []
    step, dispatch, seeds = found['cases'].values()
    assert set(step['ratios']) == set(step['seconds']) - {training.BARE}
    assert set(dispatch['ratios']) == set(dispatch['seconds']) - {training.ONE_BY_ONE}
    assert dispatch['of_limit'] > 0
    assert set(seeds['ratios']) == {'under vmap'}


def test_ways_to_keep_a_teacher_are_held_against_the_students_own_step(
    tmp_path, monkeypatch, limits
):
    monkeypatch.setattr(distillation, 'machine', lambda: limits)
    shape = dataclasses.replace(SHAPES['small'], hidden_size=32, intermediate_size=64, num_layers=1)
    found = distillation.run(tmp_path, rounds=1, shape=shape, problems=64)
    assert set(found['cases']['step']['ratios']) == {'memory', 'disk', 'online'}
    written = json.loads(to_text({'suite': 'distillation', **found}))
    assert disagreements('speed', written) == []
