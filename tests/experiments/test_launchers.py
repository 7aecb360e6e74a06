"""A user's mistake: one line on stderr, exit status 1, nothing written, before a weight is read."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from forks import ROOT
from launchers import run_in_turn, run_launchers

from cdjax.circuits.circuit import Circuit
from cdjax.parallel import preemption
from cdjax.parallel.preemption import Preempted
from cdjax.run.folder import VERSION
from cdjax.studies.inputs import EMBEDDED_TEACHER
from cdjax.training.gradient_reports import GradientError, GradientReport
from experiments import command_line, launch
from experiments.__main__ import main as list_launchers

# Problems by the hundred: the default task has tens of thousands.
FEW = ('--operands=2', '--high=9')


def mistakes(folder):
    """Returns for each mistake its command, and what the line must contain."""
    new = f'--workdir={folder}/new'
    empty, task, other = folder / 'no_config', folder / 'task.jsonl', folder / 'other_run'
    empty.mkdir()
    (empty / 'tokenizer.json').write_text('{}')
    lines = [json.dumps({'prompt': f'{a}+1=', 'answer': str(a + 1)}) for a in range(9)]
    task.write_text('\n'.join([*lines[:6], '{"prompt": "3+', *lines[6:]]))
    other.mkdir()
    short = shutil.copytree(EMBEDDED_TEACHER, folder / 'short')
    os.truncate(short / 'model.safetensors', 100_000)
    run = {'version': VERSION, 'name': 'discover', 'inputs': {'share': 0.5}}
    (other / 'config.json').write_text(json.dumps(run))
    return {
        'operator': (['discover', new, '--operators=+,%'], ["'%'", 'choose']),
        'range': (
            ['pipeline', new, '--operands=2', '--high=120'],
            ['operands 0 to 120', 'choose low and high from 0 to 99'],
        ),
        'classes': (['discover', new, '--num_classes=0'], ['num_classes=0', 'at least 1']),
        'teacher': (
            ['distill', new, '--arm=kd', f'--teacher={empty}'],
            [f'{empty} holds no config.json', 'name the folder'],
        ),
        'task_file': (['discover', new, f'--task_file={task}'], [f'{task}', '7']),
        'workdir': (
            ['discover', f'--workdir={other}', *FEW],
            [f'{other} holds another run', 'another --workdir'],
        ),
        'arms': (
            ['compare_arms', new, '--arms=kd,circiuts'],
            ['arms=kd,circiuts', 'choose from kd, all, circuits, random, wrong'],
        ),
        'methods': (
            ['pipeline', new, '--methods=one_masc'],
            ["there is no method 'one_masc'", 'choose from learned, one_mask'],
        ),
        'circuits': (
            ['evaluate', f'--circuits={folder}/none'],
            [f'{folder}/none.safetensors does not exist'],
        ),
        'encoding': (
            ['discover', new, '--encode_layer=2', *FEW],
            ['encode_layer=2', 'layers 0 to 1'],
        ),
        'preset': (
            ['distill', new, '--arm=kd', '--teacher=llama3_8b'],
            ['llama3_8b is a shape without weights', '--random_weights'],
        ),
        'microbatches': (
            ['distill', new, '--arm=kd', '--batch_size=64', '--microbatches=3'],
            ['microbatches=3 does not divide batch_size=64'],
        ),
        'profile': (['discover', new, '--profile_steps=5'], ['profile_steps=5', '10:15']),
        'plan': (
            ['plan', '--target=v9:4x4', '--teacher=llama3_8b', '--operands=2'],
            ['v9:4x4', 'v5e'],
        ),
        'diagnose_every': (
            ['train_teacher', new, '--diagnose_every=0'],
            ['diagnose_every=0 must be at least 1'],
        ),
        'checkpoint_every': (
            ['discover', new, '--checkpoint_every=0'],
            ['checkpoint_every=0 must be at least 1'],
        ),
        'profile_order': (
            ['discover', new, '--profile_steps=5:3'],
            ['profile_steps=5:3', 'END above it'],
        ),
        'plan_mesh': (
            ['plan', '--target=cpu:4', '--fsdp=3', '--teacher=llama3_8b', '--batch_size=16', *FEW],
            ['fsdp=3 does not divide the 4 devices of cpu:4'],
        ),
        'plan_output': (
            ['plan', '--target=cpu', '--operands=2', f'--output={task}/plan.json'],
            [f'{task}/plan.json cannot be made', 'is no folder'],
        ),
        'evaluate_every': (
            ['distill', new, '--arm=kd', '--evaluate_every=0'],
            ['evaluate_every=0 must be at least 1'],
        ),
        'init': (
            ['train_teacher', new, '--init=model', '--layers=3'],
            ['layers=3: --init=model has its own'],
        ),
        'truncated': (
            ['discover', new, f'--teacher={short}'],
            [f'{short}/model.safetensors', 'is truncated', 'fetch it again'],
        ),
        'starts': (
            ['pipeline', new, f'--student={EMBEDDED_TEACHER}', '--starts=nothing'],
            ['starts=nothing would not start from the student', 'add checkpoint to starts'],
        ),
        'heads': (['train_teacher', new, '--heads=0'], ['heads=0 does not divide hidden_size=128']),
        'mesh': (['discover', new, '--operands=2', '--tensor=3'], ['tensor=3', '1 devices']),
        'batch': (
            ['train_teacher', new, '--operands=2', '--batch_size=0'],
            ['batch_size=0: at least 1 problem'],
        ),
        'aligned_batch': (
            ['distill', new, '--arm=all', '--operands=2', '--batch_size=3'],
            ['batch_size=3 is too small: CKA needs at least 4'],
        ),
        'argument': (['pipeline', new, 'seeds=3'], ["unexpected argument 'seeds=3'"]),
    }


LAUNCHERS = sorted(
    path.stem
    for path in (ROOT / 'experiments').glob('[a-z]*.py')
    if 'launch.run(main' in path.read_text()
)


def dry_runs(folder):
    """Yields a launcher that takes long and its flags, each with a folder that is not there."""
    small = (*FEW, f'--workdir={folder}/dry', '--compilation_cache=')
    search = (*small, '--discovery_steps=3')
    yield 'discover', search
    yield 'distill', (*small, '--arm=kd', '--batch_size=8', '--steps=4')
    yield 'train_teacher', (*small, '--batch_size=8', '--steps=5')
    arms = ('--arms=kd,circuits', '--batch_size=8', '--steps=4')
    partial = ('--starts=nothing,partial', '--seeds=1', '--head_start_steps=6')
    yield 'compare_arms', (*search, *arms, *partial)
    yield 'pipeline', (*search, *arms, '--rediscover=kd', '--methods=one_mask')
    yield 'settle', small[-2:]
    yield 'twins', (*small[-2:], '--teachers=0,2')
    grid = folder / 'grid.flags'
    grid.write_text('--discovery_seed=1\n--num_classes=2\n')
    yield 'tune', (*search, f'--grid={grid}')
    yield 'accuracy', (small[0], small[-1], '--ranges=0:4,0:9')
    yield 'convert', (f'--source={EMBEDDED_TEACHER}', f'--target={folder}/dry', small[-1])
    yield 'benchmark', ('--suite=forward', f'--output={folder}/dry')
    zeros = np.zeros((1, 2, 4), np.float32)
    circuit = Circuit(zeros > 0, zeros, zeros, np.zeros(3, np.int32))
    yield 'compare', (str(circuit.save(folder / 'circuits')),) * 2
    yield 'plan', ('--target=cpu', *FEW, *arms[1:2], f'--output={folder}/dry')


def snapshot(folder):
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob('*'))
    }


def two_hosts(disks):
    """Returns the commands of one run on two hosts, each with a disk of its own."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    together = (*FEW, f'--coordinator=127.0.0.1:{port}', '--num_processes=2')
    return {
        f'host{i}': ['train_teacher', f'--workdir={disks}/{i}', *together, f'--process_id={i}']
        for i in range(2)
    }


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder, streams = tmp_path_factory.mktemp('mistakes'), tmp_path_factory.mktemp('streams')
    wanted = mistakes(folder)
    dry = {f'dry-{name}': [name, *flags, '--dry_run'] for name, flags in dry_runs(folder)}
    before = snapshot(folder)
    commands = {name: command for name, (command, _) in wanted.items()}
    commands |= {f'help-{name}': [name, '--help'] for name in LAUNCHERS}
    hosts = two_hosts(tmp_path_factory.mktemp('disks'))
    ended = run_in_turn(commands | dry, streams) | run_launchers(hosts, streams, at_once=2)
    found = {name: (*ended[name], parts) for name, (_, parts) in wanted.items()}
    return found, before, snapshot(folder), [ended[name] for name in hosts], ended


def test_a_mistake_is_one_line_and_status_1(outcomes):
    for name, (code, out, err, parts) in outcomes[0].items():
        lines = err.strip().splitlines()
        assert code == 1, (name, err)
        assert len(lines) == 1, (name, err)
        assert lines[0].startswith('error: '), (name, err)
        for part in parts:
            assert part in lines[0], (name, part, err)
        assert out == '', (name, out)


def test_nothing_is_written_or_overwritten(outcomes):
    _, before, after, *_ = outcomes
    assert after == before


def defined_in(path):
    return set(re.findall(r"(?:DEFINE_\w+|define_optional_path)\(\s*'(\w+)'", path.read_text()))


@pytest.mark.parametrize('launcher', LAUNCHERS)
def test_the_help_teaches(outcomes, launcher):
    code, page, err = outcomes[4][f'help-{launcher}']
    assert (code, err) == (0, '')
    lines = page.splitlines()
    assert max(map(len, lines)) <= 100
    assert 'repeat this option' not in page, "absl's words"
    assert '|' not in page, 'choices that no line can be broken in'
    assert all(re.search('second|minute|hour', line) for line in lines if line[:8] == 'Example,')
    assert f'    python -m experiments.{launcher} ' in page, 'an example'
    flags = re.findall(r'^  --(?:\[no\])?(\w+)', page, re.M)
    assert len(flags) == len(set(flags))
    own = defined_in(ROOT / 'experiments' / f'{launcher}.py')
    assert set(flags) >= own | {'flagfile', 'helpfull', 'plugins'}
    assert not set(flags) & {'verbosity', 'pdb', 'helpxml', 'alsologtostderr'}, "absl's own"
    titles = [line for line in lines if re.fullmatch(r'[A-Z][a-z ]+:', line)]
    assert titles[-1] == 'Of every launcher:'
    if launcher == 'pipeline':  # which has flags of every group but that of planting
        everywhere = set.union(*map(defined_in, (ROOT / 'experiments/flags').glob('*.py')))
        absent = everywhere - set(flags)
        assert absent == defined_in(ROOT / 'experiments/flags/plant.py')
        assert len(titles) == 14


def test_who_has_read_enough_of_the_help_sees_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, '-m', 'experiments.report', '--help']
    # What is left in a buffer would be written when Python ends.
    buffered = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, env=buffered)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b'')


def test_a_dry_run_tells_the_plan_and_claims_nothing(outcomes):
    wanted = {
        'discover': ('1 training of 3 steps', 'discover: teacher'),
        'distill': ('1 training of 4 steps', 'distill: kd'),
        'train_teacher': ('1 training of 5 steps', 'export the teacher'),
        'compare_arms': ('7 trainings of 28 steps', 'distill: circuits, from partial, seed 1'),
        'pipeline': ('5 trainings of 17 steps', 'discover: student of kd'),
        'tune': (
            '3 trainings of 9 steps, besides the searches of 1 stage',
            'discover: the best 3 settings, with 2 more seeds',
        ),
        'settle': ('32 trainings of 41,600 steps', 'find circuits: null-2-2'),
        # Of each of four teachers 1,000 steps, and 300 of eight arms with twelve seeds.
        'twins': ('8 trainings of 119,200 steps', 'distil students: lookup_third-2'),
    }
    for name, (size, stage) in wanted.items():
        code, out, err = outcomes[4][f'dry-{name}']
        assert (code, err) == (0, ''), name
        first, *others = out.splitlines()
        in_all = '' if 'besides' in size else ' in all'
        assert first.startswith(f'{name}: {size}{in_all}, on 1 device (cpu); in '), first
        assert any(line.strip().startswith(stage) for line in others), (name, out)
        assert 'memory: at least' in out
        assert others[-1] == 'nothing was claimed, loaded or written'


def test_a_dry_run_without_trainings_tells_what_is_asked_or_made(outcomes):
    wanted = {
        'accuracy': (
            r'accuracy: .*/teacher on 2 ranges of operands, \d+ problems .*',
            'max_prob',
        ),
        'convert': (r'convert: .*/teacher to .*/dry, orbax; the time .*', 'keep_layers = null'),
        'benchmark': (r'benchmark: forward; of speed 5 rounds .*', 'shape = "small"'),
        'compare': (r'compare: .* \(1 circuit of 0 neurons\); seconds', 'first = '),
        'plan': (
            r'plan: the programs of experiments.distill for cpu, .*',
            'job.config.batch_size = 8',
        ),
    }
    for name, (first, setting) in wanted.items():
        code, out, err = outcomes[4][f'dry-{name}']
        assert (code, err) == (0, ''), name
        line, *others = out.splitlines()
        assert re.fullmatch(first, line)
        assert any(setting in line for line in others)
        assert others[-1] == 'nothing was claimed, loaded or written'


def test_hosts_that_share_no_workdir_all_say_so(outcomes):
    for code, _, err in outcomes[3]:
        assert code == 1, err
        assert 'seen by process 1 lacks the config.json that process 0 wrote' in err
        assert 'that all hosts share' in err


@pytest.fixture
def status_of(monkeypatch):
    """Runs a launcher's `main` in this process, and returns its exit status."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, 'argv', ['launcher'])
    monkeypatch.setattr(warnings, 'showwarning', warnings.showwarning)
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)

    def run(main):
        with pytest.raises(SystemExit) as stop:
            launch.run(main)
        return stop.value.code

    yield run
    signal.signal(signal.SIGTERM, before)
    preemption.STOP.clear()


@pytest.mark.parametrize(
    ('raised', 'status', 'words'),
    [
        (Preempted('step 3 is saved'), 75, 'stopped: step 3 is saved; the same command continues'),
        (GradientError(GradientReport('task', (), {}, ('no gradient',))), 1, 'no gradient'),
        (KeyboardInterrupt(), 130, 'the same command continues from the last checkpoint'),
    ],
)
def test_exit_statuses(status_of, capsys, raised, status, words):
    def main():
        raise raised

    assert status_of(main) == status
    assert words in capsys.readouterr().err


def test_the_package_tells_its_launchers(capsys):
    list_launchers()
    first, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == LAUNCHERS
    assert all(len(line.split()) > 5 for line in [first, *lines])


def test_the_command_line_wins_over_a_flag_file_wherever_it_stands():
    words = [
        'main',
        '--a=1',
        '--flagfile=x',
        'run',
        '-flagfile',
        'y',
        '--b',
        '2',
        '--',
        '--flagfile=z',
    ]
    first = [
        'main',
        '--flagfile=x',
        '-flagfile',
        'y',
        '--a=1',
        'run',
        '--b',
        '2',
        '--',
        '--flagfile=z',
    ]
    assert command_line.flagfiles_first(words) == first


def test_sigterm_while_nothing_trains_asks_to_be_started_again(status_of, capsys):
    def main():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    assert status_of(main) == 75
    assert 'the same command continues' in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, 'a second one ends it at once'


def test_sigterm_while_an_object_is_deleted_stops_at_the_next_stage(status_of, capsys):
    class Deleted:
        def __del__(self):  # what is raised here, Python ignores
            os.kill(os.getpid(), signal.SIGTERM)

    def main():
        Deleted()
        preemption.heed_preemption()

    assert status_of(main) == 75
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('stopped: ')
