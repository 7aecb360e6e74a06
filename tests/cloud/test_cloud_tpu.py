"""The life of a queued resource: waiting, active, preempted, recreated, finished, deleted."""

import signal
import subprocess
import tarfile
import time

import pytest

PLACE = ('--name=slice', '--zone=us-west4-a', '--poll=0')
SLICE = (*PLACE, '--type=v5litepod-16')
LAUNCHER = ('--', 'experiments.distill', '--flagfile=a b.flags', '--workdir=gs://bucket/run')
ACTIVE = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']


@pytest.fixture
def code(tmp_path):
    """A flag that installs a tiny tarball, so that no test depends on this checkout's commits."""
    (tmp_path / 'setup.py').write_text('')
    with tarfile.open(tmp_path / 'code.tar.gz', 'w:gz') as tar:
        tar.add(tmp_path / 'setup.py', 'setup.py')
    return f'--tarball={tmp_path}/code.tar.gz'


def test_watch_recreates_after_preemption_and_deletes_at_the_end(cloud, code):
    cloud.set(
        lives=[
            {
                'states': ACTIVE,
                'runs': [{'statuses': [75, 75], 'states': ['ACTIVE', 'SUSPENDING', 'SUSPENDED']}],
            },
            {
                'states': ACTIVE,
                'runs': [{'statuses': [], 'gcloud': 255, 'states': ['SUSPENDED']}],
            },
            {'states': ACTIVE, 'runs': [{'statuses': [75, 75]}, {'statuses': [0, 0]}]},
        ]
    )
    done = cloud.run('watch', *SLICE, code, *LAUNCHER)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == [
        # The first look still says ACTIVE; the next one, before the restart, sees the preemption.
        *('create', 'scp', 'setup', 'run', 'delete'),
        *('create', 'scp', 'setup', 'run', 'delete'),
        # Here 75 was not followed by a preemption: the same slice goes on.
        *('create', 'scp', 'setup', 'run', 'run', 'delete'),
    ]
    assert cloud.current is None
    assert 'the run is done' in done.stderr


def test_create_asks_for_what_the_flags_say(cloud):
    cloud.set(lives=[{'states': ACTIVE}])
    done = cloud.run('create', *SLICE, '--project=lab', '--wait=6h', '--service-account=a@b')
    assert done.returncode == 0, done.stderr
    (create,) = [call for call in cloud.calls if call[1] == 'create']
    assert create[:3] == ['queued-resources', 'create', 'slice']
    assert set(create[3:]) == {
        '--node-id=slice',
        '--accelerator-type=v5litepod-16',
        '--runtime-version=v2-alpha-tpuv5-lite',
        '--spot',
        '--valid-until-duration=6h',
        '--service-account=a@b',
        '--zone=us-west4-a',
        '--project=lab',
        '--quiet',
    }
    assert cloud.current, 'create leaves the slice'
    assert 'tpu.sh delete' in done.stderr


@pytest.mark.parametrize(('tier', 'flag'), [('on-demand', None), ('reserved', '--reserved')])
def test_tiers_and_environment(cloud, tier, flag):
    cloud.set(lives=[{'states': ['ACTIVE']}])
    done = cloud.run(
        *('create', '--poll=0', f'--tier={tier}'),
        CDJAX_TPU_NAME='slice',
        CDJAX_ZONE='europe-west4-b',
        CDJAX_TPU_TYPE='v6e-16',
    )
    assert done.returncode == 0, done.stderr
    (create,) = [call for call in cloud.calls if call[1] == 'create']
    assert '--spot' not in create
    assert flag is None or flag in create
    assert '--runtime-version=v2-alpha-tpuv6e' in create
    assert '--zone=europe-west4-b' in create


def test_create_deletes_a_request_that_failed(cloud):
    cloud.set(lives=[{'states': ['WAITING_FOR_RESOURCES', 'FAILED']}])
    done = cloud.run('create', *SLICE)
    assert done.returncode == 1
    assert 'FAILED' in done.stderr
    assert cloud.current is None


def test_create_keeps_a_slice_that_is_there(cloud):
    cloud.set(lives=[], current={'states': ['ACTIVE']})
    assert cloud.run('create', *SLICE).returncode == 0
    assert cloud.verbs() == []


def test_watch_deletes_a_suspended_slice_before_it_asks_again(cloud, code):
    cloud.set(
        current={'states': ['SUSPENDED']},
        lives=[{'states': ['ACTIVE'], 'runs': [{'statuses': [0]}]}],
    )
    assert cloud.run('watch', *SLICE, code, *LAUNCHER).returncode == 0
    assert cloud.verbs() == ['delete', 'create', 'scp', 'setup', 'run', 'delete']


def test_watch_notices_a_node_that_was_taken_from_an_active_request(cloud, code):
    taken = {'states': ['ACTIVE'], 'runs': [{'statuses': [137, 137]}], 'node': 'PREEMPTED'}
    cloud.set(lives=[taken, {'states': ['ACTIVE'], 'runs': [{'statuses': [0]}]}])
    assert cloud.run('watch', *SLICE, code, *LAUNCHER).returncode == 0
    assert cloud.verbs()[:2] == ['create', 'delete'], 'nothing is run on a dead node'


def test_wrong_input_is_not_tried_again(cloud, code):
    cloud.set(lives=[{'states': ['ACTIVE'], 'runs': [{'statuses': [1, 1]}]}])
    done = cloud.run('watch', *SLICE, code, *LAUNCHER)
    assert done.returncode == 1
    assert cloud.verbs() == ['create', 'scp', 'setup', 'run', 'delete']
    assert cloud.current is None


def test_crashes_are_forgiven_a_few_times(cloud, code):
    # A 1 beside a crash is the crash's echo in another process; 255 is gcloud's lost connection.
    runs = [{'statuses': [1, 134]}, {'statuses': [], 'gcloud': 255}, {'statuses': [0, 0]}]
    cloud.set(lives=[{'states': ['ACTIVE'], 'runs': runs}])
    done = cloud.run('watch', *SLICE, code, '--restarts=2', *LAUNCHER)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ['create', 'scp', 'setup', 'run', 'run', 'run', 'delete']

    cloud.set(lives=[{'states': ['ACTIVE'], 'runs': [{'statuses': [134]}] * 2}])
    done = cloud.run('watch', *SLICE, code, '--restarts=1', *LAUNCHER)
    assert done.returncode == 70
    assert cloud.current is None


def test_watch_gives_up_where_nothing_is_granted(cloud, code):
    done = cloud.run('watch', *SLICE, code, '--restarts=2', *LAUNCHER)
    assert done.returncode == 70
    assert cloud.verbs() == ['create'] * 3
    assert 'RESOURCE_EXHAUSTED' in done.stderr


def test_watch_stops_where_somebody_else_deleted_the_slice(cloud, code):
    cloud.set(lives=[{'states': ['ACTIVE'], 'runs': [{'statuses': [75], 'seconds': 0.5}]}] * 2)
    process = cloud.start('watch', *SLICE, code, *LAUNCHER)
    assert cloud.gcloud.running.wait(60)
    cloud.set(lives=[{'states': ['ACTIVE']}])
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert 'deleted by someone else' in err
    assert cloud.current is None


def test_watch_outlives_a_service_that_does_not_answer(cloud, code):
    states = ['WAITING_FOR_RESOURCES', 'WAITING_FOR_RESOURCES', 'UNAVAILABLE', 'ACTIVE']
    cloud.set(lives=[{'states': states, 'runs': [{'statuses': [0]}]}])
    assert cloud.run('watch', *SLICE, code, *LAUNCHER).returncode == 0
    assert cloud.verbs().count('create') == 1


def test_setup_is_tried_again(cloud, code):
    cloud.set(lives=[{'states': ['ACTIVE'], 'setups': [1, 0], 'runs': [{'statuses': [0]}]}])
    assert cloud.run('watch', *SLICE, code, *LAUNCHER).returncode == 0
    assert cloud.verbs() == ['create', 'scp', 'setup', 'scp', 'setup', 'run', 'delete']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_deletes_the_slice_at_once(cloud, code, number):
    cloud.set(lives=[{'states': ['ACTIVE'], 'runs': [{'statuses': [0], 'seconds': 100}]}])
    process = cloud.start('watch', *SLICE, code, *LAUNCHER)
    assert cloud.gcloud.running.wait(60)
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=90) == 128 + number
    assert time.monotonic() - started < 80, 'the trap waited for the launcher'
    assert cloud.current is None


def test_keep_leaves_the_slice(cloud, code):
    cloud.set(lives=[{'states': ['ACTIVE'], 'runs': [{'statuses': [0]}]}])
    assert cloud.run('watch', *SLICE, code, '--keep', *LAUNCHER).returncode == 0
    assert cloud.current


@pytest.mark.parametrize('seconds', [0, 1])
def test_an_interrupted_create_takes_its_request_back(cloud, seconds):
    """While it waits, and while gcloud is still asking: bash runs the trap after that call."""
    cloud.set(lives=[{'states': ['WAITING_FOR_RESOURCES'], 'create_seconds': seconds}])
    process = cloud.start('create', *SLICE[:2], '--type=v5p-32', '--poll=0.05')
    assert cloud.gcloud.creating.wait(60)
    end = time.monotonic() + 60
    while not (seconds or cloud.current):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=90) == 143
    assert 'delete' in cloud.verbs()
    assert cloud.current is None


def test_a_service_that_never_answers_is_said_at_once(cloud, code):
    cloud.set(lives=[], current={'states': ['UNAVAILABLE']})
    done = cloud.run('watch', *SLICE, code, *LAUNCHER)
    assert done.returncode == 1
    assert 'log in' in done.stderr.splitlines()[-1]
    assert cloud.verbs() == [], 'what cannot be seen is not touched'


def test_delete_insists_and_says_when_it_could_not(cloud):
    cloud.set(lives=[], current={'states': ['SUSPENDING', 'SUSPENDING', 'SUSPENDED']})
    assert cloud.run('delete', *PLACE).returncode == 0
    assert cloud.current is None
    assert cloud.run('delete', *PLACE).returncode == 0, 'what is gone is gone'

    cloud.set(lives=[], current={'states': ['SUSPENDED']}, undeletable=True)
    done = cloud.run('delete', *PLACE)
    assert done.returncode == 70
    assert 'queued-resources delete slice --force --zone=us-west4-a' in done.stderr


@pytest.mark.parametrize(
    ('statuses', 'gcloud', 'expected'),
    [
        ([0, 0], 0, 0),
        ([75, 75], 75, 75),
        ([1, 75], 1, 75),
        ([1, 1], 1, 1),
        ([1, 101], 1, 101),
        ([0], 1, 255),  # one worker finished, the connection to the other broke
        ([], 1, 255),
    ],
)
def test_run_combines_the_statuses_of_the_workers(cloud, statuses, gcloud, expected):
    run = {'statuses': statuses, 'gcloud': gcloud}
    cloud.set(lives=[], current={'states': ['ACTIVE'], 'runs': [run]})
    assert cloud.run('run', *PLACE, *LAUNCHER).returncode == expected


@pytest.mark.parametrize(
    'launcher',
    [
        ('experiments.evaluate', '--circuits=gs://bucket/run/circuits/teacher'),
        ('experiments.evaluate', '--circuits=teacher', '--output=gs://bucket/study.json'),
        ('experiments.convert', '--source=a', '--target=gs://bucket/a'),
    ],
)
def test_a_launcher_without_a_workdir_writes_into_a_bucket_too(cloud, launcher):
    run = {'statuses': [0], 'gcloud': 0}
    cloud.set(lives=[], current={'states': ['ACTIVE'], 'runs': [run]})
    done = cloud.run('run', *PLACE, '--', *launcher)
    assert done.returncode == 0, done.stderr


def test_setup_installs_the_commit_that_was_named(cloud):
    cloud.set(lives=[], current={'states': ['ACTIVE']})
    done = cloud.run('setup', *PLACE, '--models=gs://bucket/models')
    assert done.returncode == 0, done.stderr
    with tarfile.open(cloud.folder / 'cdjax.tar.gz') as tar:
        assert {'setup.py', 'cdjax/__init__.py', 'experiments/__init__.py'} <= set(tar.getnames())
    assert '--command=bash worker.sh setup gs://bucket/models' in cloud.calls[-1]


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], ["''", 'expected create']),
        (['start', *SLICE], ["'start'", 'expected create']),
        (['create', '--zone=us-west4-a', '--type=v6e-8'], ['--name=', 'letters']),
        (['create', '--name=A_b', '--zone=us-west4-a'], ['--name=A_b', 'letters']),
        (['create', '--name=a', '--zone=mars'], ['--zone=mars', 'us-west4-a']),
        (['create', *PLACE, '--type=v5e-16'], ['--type=v5e-16', 'v5litepod-16']),
        (['create', *SLICE, '--tier=cheap'], ['--tier=cheap', 'on-demand']),
        (['create', *SLICE, '--wait=soon'], ['--wait=soon', '6h']),
        (['create', *SLICE, '--colour=red'], ['--colour=red', '--help']),
        (['create', '--name', 'a'], ['--name', '--flag=VALUE']),
        (['setup', *PLACE, '--ref=nowhere'], ['--ref=nowhere', '--tarball']),
        (['setup', *PLACE, '--tarball=no.tar.gz'], ['no.tar.gz', 'no such file']),
        (['setup', *PLACE, '--models=models'], ['--models=models', 'gs://']),
        (['setup', *PLACE, '--models=gs://a; rm -rf x'], ['rm -rf', 'gs://']),
        (['run', *PLACE], ['after --']),
        (['run', *PLACE, '--', 'train.py'], ['train.py', 'experiments.distill']),
        (['run', *PLACE, '--', 'experiments.distill', '--workdir=runs/a'], ['gs://', 'disk']),
        (['run', *PLACE, '--', 'experiments.evaluate', '--circuits=runs/a'], ['--output', 'disk']),
        (['watch', *SLICE, '--poll=often', *LAUNCHER], ['--poll=often', 'seconds']),
    ],
)
def test_wrong_input_gets_one_line_and_costs_nothing(cloud, arguments, words):
    done = cloud.run(*arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert cloud.calls == []


def test_help_and_a_missing_gcloud(cloud):
    for arguments in (['--help'], ['watch', '--help']):
        done = cloud.run(*arguments)
        assert done.returncode == 0
        assert done.stdout.startswith('usage: tpu.sh')
    (cloud.bin / 'gcloud').unlink()
    done = cloud.run('delete', *PLACE)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert 'Google Cloud CLI' in done.stderr


def test_two_workers_run_for_real(cloud, code, tmp_path):
    """The commands themselves, on two folders that play workers: set up, run, continue, done."""
    homes = [tmp_path / f'worker-{i}' for i in range(2)]
    for home in homes:
        home.mkdir()
        cloud.stub('uv', 'echo "uv $*" >>"$HOME/installed"', folder=home / '.local/bin')
        cloud.stub('pip', 'echo "pip $* in $PWD" >>"$HOME/installed"', folder=home / 'venv/bin')
        # The launcher stops with 75 the first time, and finishes the second.
        script = 'printf "%s\\n" "$PWD" "$@" >>"$HOME/started"; echo hello'
        script += '; [[ -f $HOME/saved ]] || { : >"$HOME/saved"; exit 75; }'
        cloud.stub('python', script, folder=home / 'venv/bin')
    cloud.stub('python3', 'exit 0')
    cloud.set(lives=[{'states': ['ACTIVE'], 'homes': [str(home) for home in homes]}])
    done = cloud.run('watch', *SLICE, code, *LAUNCHER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('hello') == 4
    assert done.stdout.count('exit status 75') == 2
    for home in homes:
        arguments = ['-u', '-m', *LAUNCHER[1:]]
        assert (home / 'started').read_text().splitlines() == [str(home / 'cdjax'), *arguments] * 2
        installed = (home / 'installed').read_text()
        assert f'install --quiet -e .[tpu] in {home}/cdjax' in installed
        assert (home / 'cdjax/setup.py').exists()


def test_bash_accepts_the_scripts(cloud):
    for script in ('tpu.sh', 'worker.sh', 'slurm.sh'):
        subprocess.run(['bash', '-n', f'experiments/cloud/{script}'], check=True)
