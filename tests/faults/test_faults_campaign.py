"""The short form of the fault campaign, and what only two real processes can show."""

import json
import os
import shutil
import signal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from campaign import PREEMPTED, Run, campaign, table

from cdjax.run.checksums import checksums

STEPS = 70  # a log point, but no multiple of the steps between checkpoints


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    """Runs of one process that were killed, and one in the same folder that was not."""
    folder = tmp_path_factory.mktemp('killed')
    unharmed = Run(folder / 'unharmed', 'tiny', 1, folder / 'compiled', STEPS)
    return campaign('tiny', 1, 3, folder, seed=1, steps=STEPS), unharmed


def test_killed_runs_end_bit_for_bit_like_an_unharmed_one(killed):
    result, _ = killed
    assert len(result.kills) >= 3
    assert any(kill.inside_save for kill in result.kills)
    assert {kill.signal for kill in result.kills} == {'SIGKILL', 'SIGTERM'}
    assert result.differing == []
    assert f'{result.runs} of {result.runs}' in table({('tiny', 1): result})


def finished(folder: Path, processes: int, job: str, steps: int, *options) -> Run:
    cache = folder.parent / f'compiled{processes}'
    run = Run(folder, job, processes, cache, steps, *options)
    run.start()
    assert set(run.finish()) == {0}, folder.with_suffix('.log').read_text()
    return run


TRAININGS = ('discovery', 'distillation')


@pytest.fixture(scope='module')
def on_meshes(tmp_path_factory):
    """Both trainings on one device, and on 2 x 2 of two processes, beyond an epoch of each."""
    folder = tmp_path_factory.mktemp('meshes')
    of_both = ','.join(TRAININGS), 6, '--checkpoint_every=20', '--layers=1'
    one = finished(folder / 'one', 1, *of_both, '--devices=1')
    return one, finished(folder / 'two', 2, *of_both, '--tensor=2')


@pytest.mark.parametrize('job', TRAININGS)
def test_a_mesh_over_two_processes_agrees_with_one_device(on_meshes, job):
    one, two = (Run(run.workdir / job, job, run.count, run.cache, run.steps) for run in on_meshes)
    (record,), (other,) = one.log(), two.log()
    assert other['loss'] == pytest.approx(record['loss'], rel=1e-5)
    arrays, others = one.arrays(), two.arrays()
    assert arrays.keys() == others.keys()
    parameters = [name for name in arrays if name.startswith('params.')]
    assert parameters
    for name in parameters:
        difference = np.linalg.norm(arrays[name] - others[name])
        assert difference <= 1e-4 * np.linalg.norm(arrays[name]), name
    # What two processes sum, each with a part of the arrays, one finds in the whole.
    progress = two.workdir / f'checkpoints/{two.latest()}/progress/metadata'
    leaves = json.loads(progress.read_text())['body']['leaves']
    sums = checksums({name: jnp.asarray(x) for name, x in others.items()})
    assert sums == {name: leaf['checksum'] for name, leaf in leaves.items()}


def test_two_processes_stop_together_fall_back_together_and_agree_with_one(tmp_path, killed):
    seldom = '--checkpoint_every=32'
    unharmed = finished(tmp_path / 'unharmed', 2, 'tiny', STEPS, seldom)
    log = unharmed.log()
    assert [r['step'] for r in log] == [10, 20, 30, 40, 50, 60, 70], 'one process writes'
    assert len(list((tmp_path / 'unharmed').glob('events.*'))) == 1

    # Damage that only process 1 meets, its part of the newest step: both use the one before, and
    # go on as if nothing had been.
    run = Run(tmp_path / 'damaged', 'tiny', 2, tmp_path / 'compiled2', 40_000, seldom)
    shutil.copytree(tmp_path / 'unharmed', tmp_path / 'damaged')
    parts = (run.workdir / f'checkpoints/{STEPS}/state/ocdbt.process_1').rglob('*')
    part = max((p for p in parts if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(part, part.stat().st_size // 2)
    run.start()
    assert run.wait_for(lambda: run.latest() >= 80), run.workdir.with_suffix('.log').read_text()
    # A SIGTERM to one of them: both save the same step, and leave with the documented status.
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.finish() == (PREEMPTED, PREEMPTED)
    assert 80 <= run.latest() < 40_000
    said = run.workdir.with_suffix('.log').read_text()
    assert f'step {STEPS} is damaged' in said
    assert (run.workdir / f'checkpoints/damaged-{STEPS}').exists()
    assert run.log()[: len(log)] == log

    # One process with half as many devices computes the same.
    one, two = killed[1].arrays(), unharmed.arrays()
    assert one.keys() == two.keys()
    for name in one:
        assert one[name] == pytest.approx(two[name], rel=1e-5, abs=1e-7), name


def test_two_processes_stop_between_trainings_and_read_no_result_that_they_do_not_see(tmp_path):
    run = Run(tmp_path / 'run', 'stages', 2, tmp_path / 'compiled2', 2000)
    run.start()
    results = tmp_path / 'run' / 'results'
    assert run.wait_for(lambda: len(list(results.glob('*.json'))) >= 3)
    run.processes[1].send_signal(signal.SIGTERM)
    log = run.workdir.with_suffix('.log')
    assert run.finish() == (PREEMPTED, PREEMPTED), log.read_text()
    done = len(list(results.glob('*.json')))
    assert done < 200, 'it went on for long'

    run = Run(tmp_path / 'run', 'stages', 2, tmp_path / 'compiled2', done + 2)
    run.start()
    assert run.finish() == (0, 0), log.read_text()
    assert len(list(results.glob('*.json'))) == done + 2
    assert not (tmp_path / 'run' / 'not yet visible').exists()
