"""fit: what it logs, that it never stalls the device, and that a stopped run is a run."""

import dataclasses
import functools
import logging
import os
import re
import shutil
import signal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_study as toy
from jax.sharding import PartitionSpec

from cdjax.errors import InputError
from cdjax.parallel import hardware
from cdjax.parallel.mesh import make_mesh
from cdjax.parallel.preemption import Preempted
from cdjax.run import folder as workdir_lib
from cdjax.run.checkpoints import Checkpoints
from cdjax.run.metrics import read_metrics
from cdjax.run.options import RunOptions
from cdjax.training import loop
from cdjax.training.diagnostics import GradientDoctor, GradientError
from cdjax.training.journal import Diverged
from cdjax.training.loop import best_parameters, fit
from cdjax.training.state import TrainState, init_state
from cdjax.training.step import put_batches, several_steps

TX = optax.adam(0.1)
EVERYWHERE = (('', PartitionSpec()),)
RATES = ('steps_per_second', 'tokens_per_second', 'mfu')


@jax.jit
def noisy_step(state, batch):
    """A step whose result depends on everything a state and a batch hold."""
    noise = jax.random.normal(jax.random.fold_in(state.key, state.step), (4,))
    rows = batch['x'].mean(0) + 0.1 * noise
    loss, grad = jax.value_and_grad(lambda w: jnp.sum((w - rows) ** 2))(state.params['w'])
    updates, opt_state = TX.update({'w': grad}, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    metrics = {'loss': loss, 'first': batch['x'][0, 0]}
    return TrainState(state.step + 1, params, opt_state, state.key), metrics


def batch_at(step):
    return {'x': np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32)}


@pytest.fixture(scope='module')
def mesh():
    return make_mesh(4, 2)


copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


@functools.cache
def first_state(mesh):
    return init_state(
        lambda key: {'w': jax.random.normal(key, (4,))},
        TX,
        jax.random.key(0),
        mesh,
        EVERYWHERE,
    )


several_noisy_steps = jax.jit(several_steps(noisy_step, 3))


def run(mesh, workdir=None, *, steps=23, batches=batch_at, step=noisy_step, **options):
    names = {field.name for field in dataclasses.fields(RunOptions)}
    chosen = {name: options.pop(name) for name in names & options.keys()}
    with mock.patch.object(loop, 'LOG_EVERY', 4):
        return fit(
            step, copy(first_state(mesh)), batches, steps=steps, mesh=mesh, description='test',
            workdir=workdir, options=RunOptions(**{'checkpoint_every': 5} | chosen), **options,
        )  # fmt: skip


def without_rates(history):
    return [{k: v for k, v in point.items() if k not in (*RATES, 'time')} for point in history]


def assert_same(one, other):
    (state, history), (other_state, other_history) = one, other
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other_state), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert without_rates(history) == without_rates(other_history)


@pytest.fixture(scope='module')
def uninterrupted(mesh):
    return run(mesh)


class Stop(Exception):
    pass


def raising_at(step, error=Stop):
    def batches(n):
        if n == step:
            raise error
        return batch_at(n)

    return batches


def signalling_at(step):
    def batches(n):
        if n == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(n)

    return batches


def never(*_):
    raise AssertionError('must not be called')


def test_log_points_are_means_over_their_steps(uninterrupted):
    state, history = uninterrupted
    assert [p['step'] for p in history] == [4, 8, 12, 16, 20, 23]
    firsts = [float(batch_at(n)['x'][0, 0]) for n in range(23)]
    for point, low in zip(history, range(0, 23, 4), strict=True):
        assert point['first'] == pytest.approx(np.mean(firsts[low : point['step']]), rel=1e-6)
        assert point['steps_per_second'] > 0
    assert int(state.step) == 23


def test_the_workdir_changes_no_number_and_holds_the_points(mesh, tmp_path, uninterrupted):
    result = run(mesh, tmp_path)
    assert_same(result, uninterrupted)
    records = [{k: v for k, v in r.items() if k != 'time'} for r in read_metrics(tmp_path)]
    assert records == result[1]


def test_several_steps_in_one_dispatch_are_the_same_bits(mesh, tmp_path, uninterrupted):
    """None goes past a log point (4, 8, ...), a checkpoint (5, 10, ...) or an end of the trace."""
    before = toy.compilations('noisy_step')
    dispatched, options = [], {'at_once': 3, 'profile_steps': (11, 12)}

    def counted(state, batches):
        dispatched.append(int(batches.count))
        return several_noisy_steps(state, batches)

    with pytest.raises(Stop):
        run(mesh, tmp_path, step=counted, batches=raising_at(13), **options)
    assert dispatched == [1, 3, 1, 3, 2, 1, 1]
    assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
    assert_same(run(mesh, tmp_path, step=several_noisy_steps, at_once=3), uninterrupted)
    assert toy.compilations('noisy_step') == before + 1, 'one program whatever the number'
    asked = []
    run(mesh, step=counted, evaluate=lambda state: asked.append(int(state.step)) or {},
        evaluate_every=7, at_once=3)  # fmt: skip
    assert asked == [7, 14, 21, 23]


def test_a_step_of_several_in_one_dispatch_is_traced_once(mesh):
    traced = []

    def step(state, batch):
        traced.append(batch)
        return noisy_step(state, batch)

    jax.eval_shape(several_steps(step, 3), first_state(mesh), put_batches([batch_at(0)], 3, mesh))
    assert len(traced) == 1


@pytest.mark.parametrize('stop', [3, 13, 22])
def test_a_run_that_died_continues_bit_for_bit(mesh, tmp_path, uninterrupted, stop):
    with pytest.raises(Stop):
        run(mesh, tmp_path, batches=raising_at(stop))
    seen = []
    result = run(mesh, tmp_path, batches=lambda n: seen.append(n) or batch_at(n))
    assert seen[0] == stop - stop % 5, 'continues from the last checkpoint'
    assert_same(result, uninterrupted)
    assert [r['step'] for r in read_metrics(tmp_path)] == [4, 8, 12, 16, 20, 23]


def test_a_finished_run_is_returned_at_once(mesh, tmp_path):
    result = run(mesh, tmp_path)
    again = run(mesh, tmp_path, batches=never, step=never)
    assert again[1] == result[1]
    assert_same(again, result)


def test_sigterm_saves_after_the_step_and_raises(mesh, tmp_path, uninterrupted):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match='step 8 of 23'):
        run(mesh, tmp_path, batches=signalling_at(7))
    assert signal.getsignal(signal.SIGTERM) is before
    with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 8
    assert_same(run(mesh, tmp_path), uninterrupted)
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_during_the_last_save_is_not_lost(mesh, tmp_path):
    def evaluate(state):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(Preempted, match='step 23 of 23'):
        run(mesh, tmp_path, evaluate=evaluate)
    state, _ = run(mesh, tmp_path, batches=never)
    assert int(state.step) == 23


def test_damage_costs_steps_but_not_the_result(mesh, tmp_path, caplog, uninterrupted):
    with pytest.raises(Stop):
        run(mesh, tmp_path, batches=raising_at(18))
    shutil.rmtree(tmp_path / 'checkpoints' / '15' / 'state')
    seen = []
    with caplog.at_level(logging.WARNING):
        result = run(mesh, tmp_path, batches=lambda n: seen.append(n) or batch_at(n))
    assert seen[0] == 10
    assert 'step 15 is damaged' in caplog.text
    assert_same(result, uninterrupted)


def test_nothing_intact_is_said_and_the_next_start_begins_anew(mesh, tmp_path, uninterrupted):
    with pytest.raises(Stop):
        run(mesh, tmp_path, batches=raising_at(7))
    shutil.rmtree(tmp_path / 'checkpoints' / '5' / 'progress')
    with pytest.raises(
        InputError,
        match=r'no checkpoint in .* is intact .* status 1; the next start .* begins with the first',
    ):
        run(mesh, tmp_path, batches=never)
    assert_same(run(mesh, tmp_path), uninterrupted)


def test_another_mesh_continues_with_the_same_numbers(mesh, tmp_path, uninterrupted):
    with pytest.raises(Stop):
        run(mesh, tmp_path, batches=raising_at(13))
    state, history = run(make_mesh(1, 8), tmp_path)
    np.testing.assert_allclose(
        state.params['w'], np.asarray(uninterrupted[0].params['w']), rtol=1e-5
    )
    losses, expected = ([p['loss'] for p in h] for h in (history, uninterrupted[1]))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_refused_before_the_first_step(mesh, tmp_path, monkeypatch):
    run(mesh, tmp_path / 'done', steps=5)
    with pytest.raises(InputError, match='holds step 5 of a run that is asked for 3 steps'):
        run(mesh, tmp_path / 'done', steps=3, step=never)
    wider = init_state(lambda key: {'w': jnp.zeros(8)}, TX, jax.random.key(0), mesh, EVERYWHERE)
    with pytest.raises(InputError, match=r'another recipe: params\.w is float32\[4\] there'):
        fit(never, wider, batch_at, steps=9, mesh=mesh, description='x', workdir=tmp_path / 'done')
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        run(mesh, tmp_path / 'file' / 'below', step=never)
    with pytest.raises(InputError, match='batch_size=6 does not divide'):
        run(mesh, batches=lambda n: {'x': np.zeros((6, 4))}, step=never)
    size = sum(x.nbytes for x in jax.tree.leaves(first_state(mesh)))
    disk = shutil.disk_usage(tmp_path)
    free = lambda states: monkeypatch.setattr(
        workdir_lib.shutil, 'disk_usage', lambda path: disk._replace(free=states * size)
    )
    free(2)  # two are kept, and a third is written before the first of them goes
    with pytest.raises(InputError, match='keeping 3 checkpoints needs'):
        run(mesh, tmp_path / 'new', step=never)
    run(mesh, tmp_path / 'done', steps=6)  # with one of them there already
    free(0)
    with pytest.raises(InputError, match='keeping 3 checkpoints needs'):
        run(mesh, tmp_path / 'done', steps=9, step=never)
    run(mesh, tmp_path / 'done', steps=6, step=never)  # finished: nothing is to be written


def test_a_finished_run_may_be_prolonged(mesh, tmp_path, uninterrupted):
    # Log points lie at multiples of LOG_EVERY from the first step, so 20 splits no window.
    run(mesh, tmp_path, steps=20)
    assert_same(run(mesh, tmp_path, steps=23), uninterrupted)


def test_metrics_are_fetched_only_after_the_next_step_is_queued(mesh, monkeypatch):
    events = []

    class Late:
        """Stands for a value that is still being computed."""

        def __init__(self, step):
            self.step = step

        def block_until_ready(self):
            return self

        def __array__(self, dtype=None, copy=None):
            events.append(('fetch', self.step))
            return np.float32(self.step)

    def step(state, batch):
        events.append(('queue', state))
        return state + 1, {'n': Late(state)}

    monkeypatch.setattr(loop, 'LOG_EVERY', 3)
    _, history = fit(step, 0, lambda n: {}, steps=9, mesh=mesh, description='x')
    assert [p['n'] for p in history] == [1, 4, 7]
    for last in (2, 5):
        assert events.index(('queue', last + 1)) < events.index(('fetch', last))
        assert events.index(('fetch', last)) < events.index(('queue', last + 2))


def test_evaluations_join_their_log_point(mesh, tmp_path):
    seen = []

    def evaluate(state):
        seen.append(int(state.step))
        return {'accuracy': int(state.step) / 10}

    _, history = run(mesh, tmp_path, evaluate=evaluate, evaluate_every=6)
    assert seen == [6, 12, 18, 23]
    assert [p['step'] for p in history] == [4, 6, 8, 12, 16, 18, 20, 23]
    by_step = {p['step']: p for p in history}
    assert without_rates([by_step[6]]) == [{'step': 6, 'evaluation/accuracy': 0.6}]
    assert {'loss', 'evaluation/accuracy'} <= by_step[12].keys()
    with pytest.raises(Stop):
        run(mesh, tmp_path / 'b', evaluate=evaluate, evaluate_every=6, batches=raising_at(13))
    _, continued = run(mesh, tmp_path / 'b', evaluate=evaluate, evaluate_every=6)
    assert without_rates(continued) == without_rates(history)


def test_a_new_best_is_saved_at_once_and_kept(mesh, tmp_path):
    scores = {3: 0.2, 6: 0.9, 9: 0.5, 12: 0.1, 15: 0.3, 18: 0.8, 21: 0.0, 23: 0.4}
    last, _ = run(
        mesh,
        tmp_path,
        evaluate=lambda state: {'score': scores[int(state.step)]},
        evaluate_every=3,
        best=('score', 'max'),
    )
    with Checkpoints(
        tmp_path / 'checkpoints', best=('score', 'max'), read_only=True
    ) as checkpoints:
        assert checkpoints.best_step() == 6
    kept = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
    assert kept == [6, 20, 23]
    params, step = best_parameters(tmp_path, last.params, ('score', 'max'))
    assert step == 6
    at_six, _ = run(mesh, steps=6)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(at_six.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tokens_and_utilisation_follow_from_the_rate(mesh, monkeypatch):
    _, history = run(mesh, tokens_per_step=100, flops_per_step={'float32': 8e6})
    assert 'mfu' not in history[1], 'a CPU has no peak worth the name'
    for point in history:
        assert point['tokens_per_second'] == pytest.approx(100 * point['steps_per_second'])
    monkeypatch.setitem(hardware.PEAK_FLOPS, 'cpu', hardware.Peak(bfloat16=1e9, float32=1e8))
    # Eight devices: 1 ms of arithmetic in bfloat16, and 10 ms in float32.
    for flops, seconds in (({'bfloat16': 8e6}, 1e-3), ({'bfloat16': 8e6, 'float32': 8e6}, 11e-3)):
        _, history = run(mesh, flops_per_step=flops)
        for point in history:
            assert point['mfu'] == pytest.approx(point['steps_per_second'] * seconds)


def test_a_profile_of_the_steps_asked_for(mesh, tmp_path, caplog):
    run(mesh, tmp_path, steps=6, profile_steps=(2, 4))
    assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
    assert 'no trace' not in caplog.text
    with caplog.at_level(logging.WARNING):
        run(mesh, tmp_path / 'late', steps=3, profile_steps=(3, 4))
    assert 'no trace, for profile_steps begins at 3 and the last step is 2' in caplog.text


def test_steps_run_under_the_mesh(mesh):
    meshes = []

    def step(state, batch):
        meshes.append(jax.sharding.get_abstract_mesh().axis_names)
        return state, {}

    fit(step, 0, lambda n: {}, steps=1, mesh=mesh, description='x')
    assert meshes == [('fsdp', 'tensor')]
    assert jax.sharding.get_abstract_mesh().empty


# -- The gradient doctor --------------------------------------------------------------------------


DOCTOR = GradientDoctor(
    lambda params, x, scale: {
        'task': jnp.sum((params['w'] - x.mean(0)) ** 2),
        'extra': scale * jnp.sum(params['w']),
    },
    task='task',
    weights={'extra': 1.0},
)


def examine(scale_of=lambda step: 1.0):
    """A gradient doctor with a second term whose gradient is twice its scale, set by the step."""
    return lambda state, batch: DOCTOR(state.params, batch['x'], scale_of(int(state.step)))


def diagnostics_of(points):
    found = {p['step']: p.get('diagnostics/extra/gradient/w') for p in points}
    return {step: figure for step, figure in found.items() if figure is not None}


def test_reports_are_made_before_the_first_step_and_at_multiples(mesh, tmp_path, uninterrupted):
    state, history = run(mesh, tmp_path, diagnose=examine(lambda n: 1.0 + n), diagnose_every=6)
    # ‖∂(scale · Σ w)‖ of four weights is 2 · scale.
    expected = {step: pytest.approx(2.0 * (1 + step)) for step in (0, 6, 12, 18)}
    assert diagnostics_of(history) == expected
    assert diagnostics_of(read_metrics(tmp_path)) == expected
    steps = [record['step'] for record in read_metrics(tmp_path)]
    assert steps == [0, 4, 6, 8, 12, 12, 16, 18, 20, 23]
    tables = {path.name: path.read_text() for path in (tmp_path / 'gradients').iterdir()}
    assert sorted(tables) == ['0.txt', '12.txt', '18.txt', '6.txt']
    assert [line.split()[0] for line in tables['6.txt'].splitlines()[:3]] == [
        'term',
        'task',
        'extra',
    ]
    # Looking changes nothing.
    plain = [p for p in history if p['step'] not in (0, 6, 18)]
    plain = [{k: v for k, v in p.items() if not k.startswith('diagnostics/')} for p in plain]
    assert_same((state, plain), uninterrupted)


def test_a_continued_run_has_each_report_once(mesh, tmp_path):
    asked = []
    diagnose = examine(lambda n: asked.append(n) or 1.0)
    for stop in (2, 9):
        with pytest.raises(Stop):
            run(mesh, tmp_path, batches=raising_at(stop), diagnose=diagnose, diagnose_every=4)
    run(mesh, tmp_path, diagnose=diagnose, diagnose_every=4)
    assert asked == [0, 0, 4, 8, 8, 12, 16, 20]
    records = [r['step'] for r in read_metrics(tmp_path) if 'diagnostics/task/value' in r]
    assert records == [0, 4, 8, 12, 16, 20]


def test_a_term_that_trains_nothing_stops_a_run_before_its_first_step(mesh, tmp_path):
    with pytest.raises(GradientError, match=r'extra \(weight 1\) has a zero gradient'):
        run(mesh, tmp_path, step=never, diagnose=examine(lambda n: 0.0))
    assert 'FAIL: extra (weight 1)' in (tmp_path / 'gradients' / '0.txt').read_text()


def test_a_gradient_that_vanishes_on_the_way_is_a_warning(mesh, tmp_path, caplog):
    state, history = run(
        mesh, tmp_path, diagnose=examine(lambda n: float(n < 12)), diagnose_every=6
    )
    assert int(state.step) == 23
    assert diagnostics_of(history) == {0: 2, 6: 2, 12: 0, 18: 0}
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert warnings[0].startswith('test: after step 12, extra (weight 1) has a zero gradient')
    assert 'FAIL: extra' in (tmp_path / 'gradients' / '12.txt').read_text()


def test_a_gradient_that_is_not_finite_stops_a_run_on_the_way(mesh):
    scale = lambda n: float('nan') if n == 12 else 1.0
    with pytest.raises(GradientError, match=r'extra \(weight 1\) is nan'):
        run(mesh, batches=raising_at(14), diagnose=examine(scale), diagnose_every=6)


@pytest.mark.parametrize(('at', 'kept'), [(3, None), (6, 5), (11, 10), (22, 20)])
def test_a_term_that_is_no_longer_finite_stops_a_run_and_is_named(mesh, tmp_path, at, kept):
    def poisoned(step):
        batch = batch_at(step)
        return {'x': batch['x'] * np.float32(np.nan)} if step == at else batch

    with pytest.raises(Diverged) as stopped:
        run(mesh, tmp_path, batches=poisoned)
    says = 'nothing was saved' if kept is None else f'step {kept} is kept in {tmp_path}'
    assert re.search(rf'test: by step \d+ no longer finite: first; {says}:', str(stopped.value))
    with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.latest_step() == kept
    # What is kept is good: with other batches the run goes on from it.
    state, history = run(mesh, tmp_path)
    assert history[-1]['step'] == 23
    assert np.isfinite(state.params['w']).all()


def test_a_loss_without_terms_is_named_itself(mesh):
    def overflows(state, batch):
        return state, {'loss': state.step / jnp.float32(0), 'gradient': jnp.float32(jnp.nan)}

    with pytest.raises(Diverged, match='by step 4 no longer finite: gradient, loss;'):
        run(mesh, step=overflows)
