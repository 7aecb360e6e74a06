"""The short form of the fault campaign, and what only two real processes can show."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from campaign import PREEMPTED, Run, campaign, table


def test_killed_runs_end_bit_for_bit_like_an_unharmed_one(tmp_path):
    result = campaign('tiny', 1, 3, tmp_path, seed=1, steps=64)
    assert len(result.kills) >= 3
    assert any(kill.inside_save for kill in result.kills)
    assert {kill.signal for kill in result.kills} == {'SIGKILL', 'SIGTERM'}
    assert result.differing == []
    assert f'{result.runs} of {result.runs}' in table({('tiny', 1): result})


def finished(folder: Path, processes: int, job: str = 'tiny', steps: int = 64, *options) -> Run:
    cache = folder.parent / f'compiled{processes}'
    run = Run(folder, job, processes, cache, steps, *options)
    run.start()
    assert set(run.finish()) == {0}, folder.with_suffix('.log').read_text()
    return run


# Sums in another order; in the distillation their rounding has grown to 1e-5 at the last step.
@pytest.mark.parametrize(('job', 'last'), [('discovery', 1e-5), ('distillation', 3e-5)])
def test_a_mesh_over_two_processes_agrees_with_one_device(tmp_path, job, last):
    quick = '--quick', '--checkpoint_every=20'
    one = finished(tmp_path / 'one', 1, job, 20, *quick, '--devices=1')
    two = finished(tmp_path / 'two', 2, job, 20, *quick, '--tensor=2')  # 2 x 2 devices
    assert len(one.log()) == 2
    for rel, record, other in zip((1e-5, last), one.log(), two.log(), strict=True):
        assert other['loss'] == pytest.approx(record['loss'], rel=rel)
    arrays, others = one.arrays(), two.arrays()
    assert arrays.keys() == others.keys()
    parameters = [name for name in arrays if name.startswith('params.')]
    assert parameters
    for name in parameters:
        difference = np.linalg.norm(arrays[name] - others[name])
        assert difference <= 1e-4 * np.linalg.norm(arrays[name]), name


def test_two_processes_stop_together_fall_back_together_and_agree_with_one(tmp_path):
    unharmed = finished(tmp_path / 'unharmed', 2)
    log = [json.loads(line) for line in (tmp_path / 'unharmed/metrics.jsonl').open()]
    assert [r['step'] for r in log] == [10, 20, 30, 40, 50, 60, 64], 'one process writes'
    assert len(list((tmp_path / 'unharmed').glob('events.*'))) == 1

    # A SIGTERM to one of them: both save the same step, and leave with the documented status.
    run = Run(tmp_path / 'stopped', 'tiny', 2, tmp_path / 'compiled2', 4000)
    run.start()
    assert run.wait_for(lambda: (run.latest() or 0) >= 8)
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.finish() == (PREEMPTED, PREEMPTED)
    stopped_at = run.latest()
    assert 8 <= stopped_at < 4000

    # Damage that only process 1 meets, its part of the newest step: both use the one before.
    run = Run(tmp_path / 'damaged', 'tiny', 2, tmp_path / 'compiled2', 64)
    shutil.copytree(tmp_path / 'unharmed', tmp_path / 'damaged')
    parts = (run.workdir / 'checkpoints/64/state/ocdbt.process_1').rglob('*')
    part = max((p for p in parts if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(part, part.stat().st_size // 2)
    run.start()
    assert set(run.finish()) == {0}, run.workdir.with_suffix('.log').read_text()
    assert 'step 64 is damaged' in run.workdir.with_suffix('.log').read_text()
    assert (run.workdir / 'checkpoints/damaged-64').exists()
    assert run.outcome() == unharmed.outcome()

    # One process with as many devices computes the same.
    one, two = finished(tmp_path / 'alone', 1).arrays(), unharmed.arrays()
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
