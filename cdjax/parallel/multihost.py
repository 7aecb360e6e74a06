"""One program on many hosts: joining the other processes, or saying why it cannot.

`jax.distributed` finds Open MPI, SLURM and Cloud TPU slices (GKE and GCE) by itself, but on a
single host it raises, and where the others were never started it waits for minutes and then
aborts the process. Here the environment is looked at first.
"""

import glob
import importlib.util
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from cdjax.errors import InputError

_ALL_WORKERS = (
    'start the same command on every worker (gcloud compute tpus tpu-vm ssh NAME --worker=all '
    '--command=...), or set JAX_PLATFORMS=cpu to leave the TPUs alone'
)
_NOTICE_SECONDS = 20.0


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
) -> None:
    """Joins the processes of this run; does nothing where there is only one.

    To be called first, before any array is made. Without arguments the environment decides:
    Open MPI, SLURM, a Cloud TPU slice on GKE or GCE, or a single host.

    Args:
        coordinator: 'host:port' of process 0, a port that is free there. Where Open MPI or SLURM
            started the processes, the two other values may be left out.
        num_processes: how many processes run in all; 1 alone means a single host whatever the
            environment says.
        process_id: the number of this one, from 0.
        timeout: seconds to wait for the others.

    Raises:
        InputError: values that do not fit together, a launch that started one process of many,
            or processes that did not appear in time.
    """
    if jax.distributed.is_initialized():
        return
    if coordinator is None and process_id is None and num_processes in (None, 1):
        slice_workers = _tpu_workers()
        if num_processes == 1:
            if slice_workers > 1:
                raise InputError(
                    f'num_processes=1 on one of the {slice_workers} workers of a TPU slice, '
                    f'whose TPUs only start together: {_ALL_WORKERS}'
                )
            return
        remedy = _remedy(slice_workers)
        if remedy is not None:
            _join(remedy, timeout)
        return
    count, number = _launched_as()
    num_processes = count if num_processes is None else num_processes
    process_id = number if process_id is None else process_id
    _check_flags(coordinator, num_processes, process_id)
    remedy = (
        f'process {process_id} of {num_processes} with coordinator {coordinator}: start the same '
        f'command with process_id 0 to {num_processes - 1}, and check that {coordinator} is an '
        'address of process 0 which the others can reach'
    )
    _join(
        remedy,
        timeout,
        coordinator_address=coordinator,
        num_processes=num_processes,
        process_id=process_id,
    )


def in_order(tree: Any) -> Any:
    """Returns a tree of results, waited for where programs on several processes might overtake.

    Programs that exchange data must meet in the same order on all processes. Accelerators run them
    as they were launched; CPUs run several at once, whose messages then take each other's place and
    all wait for ever. To be called on the results of a program before an independent one starts.
    """
    if jax.process_count() > 1 and jax.default_backend() == 'cpu':
        jax.block_until_ready(tree)
    return tree


def as_process_0_sees(look: Callable[[], bool]) -> bool:
    """Returns what process 0 finds, on all processes; the others do not look.

    For what all have to do together or not at all. Hosts may see a shared disk differently for a
    while, and one that has looked for a file too early may not see it when it is there.

    Args:
        look: such as `path.exists`.
    """
    found = jax.process_index() == 0 and look()
    if jax.process_count() == 1:
        return found
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(found)))


def from_process_0(make: Callable[[], str | None]) -> str | None:
    """Returns the text that process 0 makes, on all processes; the others make nothing.

    Args:
        make: such as `path.read_text`; None may be its result.
    """
    text = make() if jax.process_index() == 0 else None
    if jax.process_count() == 1:
        return text
    content = np.frombuffer(b'' if text is None else text.encode(), np.uint8)
    size = np.asarray(-1 if text is None else len(content))
    size = int(multihost_utils.broadcast_one_to_all(size))
    if size < 0:
        return None
    if jax.process_index() > 0:
        content = np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes().decode()


def _check_flags(coordinator, num_processes, process_id) -> None:
    values = f'coordinator={coordinator}, num_processes={num_processes}, process_id={process_id}'
    if coordinator is None or num_processes is None or process_id is None:
        raise InputError(
            f'{values}: give all three, or none to let the environment decide (Open MPI, SLURM, '
            'Cloud TPU)'
        )
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f'coordinator={coordinator!r} is not host:port, such as 10.0.0.2:8476')
    if not 0 <= process_id < num_processes:
        raise InputError(f'{values}: process_id goes from 0 to num_processes - 1')


def _launched_as() -> tuple[int | None, int | None]:
    """Returns (number of processes, number of this one) as a launcher's environment tells."""
    for size, rank in (
        ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
        ('SLURM_NTASKS', 'SLURM_PROCID'),
    ):
        if size in os.environ and rank in os.environ:
            return int(os.environ[size]), int(os.environ[rank])
    return None, None


def _remedy(slice_workers: int) -> str | None:
    """Returns what to say if the others stay away; None on a single host.

    Raises:
        InputError: the environment tells of several processes but cannot join them.
    """
    env = os.environ
    if int(env.get('OMPI_COMM_WORLD_SIZE', '1')) > 1:
        if 'OMPI_MCA_orte_hnp_uri' not in env:
            raise InputError(
                'this Open MPI (5 or later) does not tell where process 0 runs: add '
                '--coordinator=HOST:PORT, the other values are taken from mpirun'
            )
        size, rank = env['OMPI_COMM_WORLD_SIZE'], env.get('OMPI_COMM_WORLD_RANK')
        return f'process {rank} of {size} started by mpirun: see whether the others failed'
    tasks = int(env.get('SLURM_NTASKS', '1')) if 'SLURM_JOB_ID' in env else 1
    if tasks > 1:
        if 'SLURM_STEP_NODELIST' not in env or 'SLURM_PROCID' not in env:
            raise InputError(
                f'SLURM job {env["SLURM_JOB_ID"]} has {tasks} tasks, but this is one process '
                'outside a job step: start it as `srun python -m ...`, or add --num_processes=1 '
                'to run on this host alone'
            )
        return (
            f'task {env["SLURM_PROCID"]} of {tasks} of SLURM job {env["SLURM_JOB_ID"]}: start the '
            'command by `srun`, which runs it once for each task'
        )
    if slice_workers > 1:
        if importlib.util.find_spec('libtpu') is None:
            raise InputError(
                f'this is one of {slice_workers} workers of a TPU slice, but libtpu is not '
                "installed: pip install -e '.[tpu]', or set JAX_PLATFORMS=cpu"
            )
        if 'TPU_WORKER_HOSTNAMES' in env and 'TPU_WORKER_ID' not in env:
            raise InputError(
                f'TPU_WORKER_HOSTNAMES lists {slice_workers} workers but TPU_WORKER_ID does not '
                'say which one this is: GKE sets both in a pod that asks for google.com/tpu'
            )
        return f'one of {slice_workers} workers of a TPU slice: {_ALL_WORKERS}'
    return None


def _tpu_workers() -> int:
    """Returns the number of workers of the TPU slice this host belongs to, 1 if to none."""
    env = os.environ
    platforms = env.get('JAX_PLATFORMS', '')
    if platforms and 'tpu' not in platforms:
        return 1
    slices = int(env.get('MEGASCALE_NUM_SLICES') or 1)
    names = env.get('TPU_PROCESS_ADDRESSES', env.get('TPU_WORKER_HOSTNAMES'))  # set by GKE
    if names is not None:
        return len(names.split(',')) * slices
    if 'TPU_SKIP_MDS_QUERY' in env or not _has_tpu_devices():
        return 1
    return len(_gce_endpoints().split(',')) * slices


def _has_tpu_devices() -> bool:
    return bool(glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*'))


def _gce_endpoints() -> str:
    """Returns the slice's list of workers from the metadata server, '' outside Google Cloud."""
    host = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
    request = urllib.request.Request(
        f'http://{host}/computeMetadata/v1/instance/attributes/worker-network-endpoints',
        headers={'Metadata-Flavor': 'Google'},
    )
    try:
        with urllib.request.urlopen(request, timeout=2.0) as reply:
            return reply.read().decode()
    except (urllib.error.URLError, OSError):
        return ''


def _join(remedy: str, timeout: float, **arguments) -> None:
    """Runs `jax.distributed.initialize`, and stops waiting in words.

    Its own timeout aborts the process with a stack trace, so it waits in a thread without one.
    """
    failure = []

    def connect():
        try:
            jax.distributed.initialize(**arguments, initialization_timeout=10**6)
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=connect, name='join processes', daemon=True)
    thread.start()
    thread.join(min(_NOTICE_SECONDS, timeout))
    if thread.is_alive() and timeout > _NOTICE_SECONDS:
        logging.warning('Still waiting for the other processes; this is %s.', remedy)
        thread.join(timeout - _NOTICE_SECONDS)
    if thread.is_alive():
        raise InputError(
            f'the other processes did not appear within {timeout:.0f} seconds; this is {remedy}'
        )
    if failure:
        raise failure[0]
