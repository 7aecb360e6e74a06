"""Who is asked to join, who is left alone, and what is said of a launch that went wrong."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cdjax.errors import InputError
from cdjax.parallel import multihost

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = ('SLURM_', 'OMPI_', 'TPU_', 'MEGASCALE_', 'GCE_METADATA', 'JAX_PLATFORMS')


@pytest.fixture
def joined(monkeypatch):
    """A bare environment; returns the list of calls of jax.distributed.initialize."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(
        multihost.jax.distributed, 'initialize', lambda **arguments: calls.append(arguments)
    )
    monkeypatch.setattr(multihost, '_has_tpu_devices', lambda: False)
    return calls


def set_env(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


STEP = {'SLURM_STEP_NODELIST': 'node[1-2]', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '1'}
SLURM = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '4', **STEP}
OPEN_MPI = {'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '1'}
GKE = {'TPU_WORKER_HOSTNAMES': 'a,b,c,d', 'TPU_WORKER_ID': '2'}


def with_libtpu(monkeypatch):
    find_spec = multihost.importlib.util.find_spec
    monkeypatch.setattr(
        multihost.importlib.util, 'find_spec', lambda n: n == 'libtpu' or find_spec(n)
    )


@pytest.mark.parametrize(
    'env',
    [
        {},
        {**SLURM, 'SLURM_NTASKS': '1'},
        {'SLURM_JOB_ID': '7'},
        {'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'},
        {'TPU_WORKER_HOSTNAMES': 'localhost'},
        {**GKE, 'JAX_PLATFORMS': 'cpu'},
    ],
)
def test_a_single_host_joins_nobody(monkeypatch, joined, env):
    set_env(monkeypatch, **env)
    multihost.initialize()
    assert joined == []


@pytest.mark.parametrize(
    'env',
    [
        SLURM,
        {**OPEN_MPI, 'OMPI_MCA_orte_hnp_uri': '1.0;tcp://10.0.0.1:99'},
        GKE,
        {'TPU_WORKER_HOSTNAMES': 'a', 'TPU_WORKER_ID': '0', 'MEGASCALE_NUM_SLICES': '2'},
    ],
)
def test_several_processes_are_joined_by_jaxs_own_detection(monkeypatch, joined, env):
    set_env(monkeypatch, **env)
    with_libtpu(monkeypatch)
    multihost.initialize()
    assert [set(call) for call in joined] == [{'initialization_timeout'}]


@pytest.mark.parametrize(
    ('env', 'words'),
    [
        ({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '4'}, 'SLURM job 7 has 4 tasks.*srun'),
        (OPEN_MPI, 'Open MPI .*--coordinator=HOST:PORT'),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'lists 2 workers but TPU_WORKER_ID'),
    ],
)
def test_a_wrong_launch_is_explained(monkeypatch, joined, env, words):
    set_env(monkeypatch, **env)
    with_libtpu(monkeypatch)
    with pytest.raises(InputError, match=words):
        multihost.initialize()
    assert joined == []


def test_one_worker_of_a_slice(monkeypatch, joined):
    set_env(monkeypatch, **GKE)
    with pytest.raises(InputError, match=r'4 workers of a TPU slice.*--worker=all'):
        multihost.initialize(num_processes=1)
    monkeypatch.setattr(multihost.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='libtpu is not installed'):
        multihost.initialize()
    assert joined == []


def test_num_processes_1_stays_alone_in_a_slurm_job(monkeypatch, joined):
    set_env(monkeypatch, SLURM_JOB_ID='7', SLURM_NTASKS='4')
    multihost.initialize(num_processes=1)
    assert joined == []


@pytest.mark.parametrize(
    ('endpoints', 'workers'), [('10.0.0.1,10.0.0.2,10.0.0.3', 3), ('w:0:10.0.0.1', 1), (None, 1)]
)
def test_a_gce_slice_is_found_by_its_metadata(monkeypatch, joined, endpoints, workers):
    asked = []

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers['Metadata-Flavor']))
            self.send_response(200 if endpoints else 404)
            self.end_headers()
            self.wfile.write((endpoints or '').encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(('127.0.0.1', 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{server.server_port}')
        monkeypatch.setattr(multihost, '_has_tpu_devices', lambda: True)
        with_libtpu(monkeypatch)
        multihost.initialize()
        server.shutdown()
    assert asked == [('/computeMetadata/v1/instance/attributes/worker-network-endpoints', 'Google')]
    assert len(joined) == (workers > 1)


def test_tpu_devices_outside_google_cloud_are_one_host(monkeypatch, joined):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{probe.getsockname()[1]}')
        monkeypatch.setattr(multihost, '_has_tpu_devices', lambda: True)
        multihost.initialize()
    assert joined == []


def test_flags_are_passed_on_and_filled_in_from_the_launcher(monkeypatch, joined):
    multihost.initialize('10.0.0.1:1234', 4, 3)
    expected = {'coordinator_address': '10.0.0.1:1234', 'num_processes': 4, 'process_id': 3}
    assert joined[0].items() >= expected.items()
    set_env(monkeypatch, **OPEN_MPI)
    multihost.initialize('10.0.0.1:1234')
    assert joined[1].items() >= {**expected, 'num_processes': 2, 'process_id': 1}.items()


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (('10.0.0.1:1', 2, None), 'give all three'),
        ((None, 2, 0), 'give all three'),
        ((None, 2, None), 'give all three'),
        (('10.0.0.1', 2, 0), "'10.0.0.1' is not host:port"),
        (('10.0.0.1:0', 2, 0), 'not host:port'),
        (('10.0.0.1:1', 2, 2), 'process_id goes from 0'),
        (('10.0.0.1:1', 2, -1), 'process_id goes from 0'),
    ],
)
def test_flags_that_do_not_fit(joined, flags, words):
    with pytest.raises(InputError, match=words):
        multihost.initialize(*flags)
    assert joined == []


def test_a_process_whose_peers_never_come_says_so():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    program = (
        'import sys\n'
        'from cdjax.errors import InputError\n'
        'from cdjax.parallel.multihost import initialize\n'
        'try:\n'
        f'    initialize("127.0.0.1:{port}", 2, 1, timeout=1)\n'
        'except InputError as error:\n'
        '    sys.exit(f"error: {error}")\n'
    )
    env = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-c', program], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert 'did not appear within 1 seconds' in done.stderr
    assert 'process 1 of 2' in done.stderr


@pytest.mark.parametrize('there', [True, False])
@pytest.mark.parametrize('index', [0, 1])
def test_what_process_0_sees_counts_for_all_and_the_others_do_not_look(monkeypatch, index, there):
    looked, sent = [], []
    look = lambda: looked.append(index) or there
    assert multihost.as_process_0_sees(look) == there, 'one process'
    monkeypatch.setattr(multihost.jax, 'process_count', lambda: 2)
    monkeypatch.setattr(multihost.jax, 'process_index', lambda: index)
    broadcast = lambda value: sent.append(bool(value)) or there
    monkeypatch.setattr(multihost.multihost_utils, 'broadcast_one_to_all', broadcast)
    looked.clear()
    assert multihost.as_process_0_sees(look) == there
    assert looked == ([0] if index == 0 else [])
    assert sent == [there and index == 0]
