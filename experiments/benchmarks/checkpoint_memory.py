"""Peak resident memory of loading and saving a checkpoint, on simulated devices of the CPU.

The devices' arrays are host memory there, so resident memory is the arrays and everything that
loading or saving holds beside them. A synthetic checkpoint of a preset's shapes is written first;
each run is a process of its own.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from cdjax.models import LlamaConfig
from cdjax.models.huggingface_export import MAX_SHARD_BYTES, checkpoint_fields
from cdjax.models.parameters import abstract_model, describe_parameters
from cdjax.models.tensor_files import OutgoingTensor, write_tensors
from experiments.benchmarks.measure import in_a_process

LIMIT = 1.15
ROWS = 1024


def run(workdir: Path, *, model: str, devices: int) -> dict:
    """Measures one preset.

    Args:
        workdir: an empty folder on a disk with room for twice the model; what is written there
            is removed again.
        model: name of a preset of `LlamaConfig`.
        devices: simulated devices, all on the axis fsdp.

    Returns:
        Bytes of the model; resident bytes of the process `before` loading; seconds and peak
        resident bytes of `load` and of `save`, with the model and the process itself in them;
        the ratios of those peaks to the model's bytes.
    """
    return {'model': model, **measure(workdir, LlamaConfig.preset(model), devices)}


def measure(workdir: Path, config: LlamaConfig, devices: int) -> dict:
    """Measures a config; see `run`."""
    source, target = workdir / 'source', workdir / 'target'
    try:
        size = write_synthetic(source, config)
        folders = str(source.absolute()), str(target.absolute())
        found = in_a_process(__name__, *folders, str(devices))
    finally:
        for folder in (source, target):
            for file in folder.glob('*'):
                file.unlink()
            if folder.exists():
                folder.rmdir()
    ratios = {f'{stage}_ratio': found[f'{stage}_peak_bytes'] / size for stage in ('load', 'save')}
    rates = {
        f'{stage}_bytes_per_second': size / found[f'{stage}_seconds'] for stage in ('load', 'save')
    }
    within = max(ratios.values()) <= LIMIT
    found |= rates | ratios
    return {'bytes': size, 'devices': devices, **found, 'limit': LIMIT, 'within': within}


def write_synthetic(folder: Path, config: LlamaConfig) -> int:
    """Writes a bfloat16 checkpoint of random blocks that repeat, and returns its bytes."""
    folder.mkdir()
    block = np.random.default_rng(0).normal(size=1 << 20).astype(ml_dtypes.bfloat16)

    def chunks(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        width = int(np.prod(shape[1:], dtype=int))
        for at in range(0, shape[0], ROWS):
            rows = min(ROWS, shape[0] - at)
            yield np.resize(block, (rows, width))

    leaves = [leaf.shape for leaf in jax.tree.leaves(abstract_model(config))]
    tensors = []
    for parameter, shape in zip(describe_parameters(config), leaves, strict=True):
        stored = parameter.stored_shape(shape)
        for name in parameter.sources:
            tensors.append(
                OutgoingTensor(name, stored, np.dtype(ml_dtypes.bfloat16), chunks(stored))
            )
    write_tensors(folder, tensors, MAX_SHARD_BYTES)
    (folder / 'config.json').write_text(json.dumps(checkpoint_fields(config, 'bfloat16', None)))
    return sum(tensor.nbytes for tensor in tensors)


def _resident(field: str) -> int:
    """Returns VmRSS (now) or VmHWM (the peak since it was last reset) of this process in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {field}: this suite needs Linux')


def _child(source: str, target: str, devices: str) -> None:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', int(devices))
    from cdjax.models import load_huggingface, save_huggingface
    from cdjax.parallel.mesh import make_mesh

    mesh = make_mesh()
    jax.device_put(np.zeros(8, np.float32)).block_until_ready()
    found = {'before_bytes': _resident('VmRSS')}
    model = None
    for stage in ('load', 'save'):
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
        start = time.perf_counter()
        if stage == 'load':
            model = jax.block_until_ready(load_huggingface(source, mesh=mesh))
        else:
            save_huggingface(model, target)
        found[f'{stage}_seconds'] = time.perf_counter() - start
        found[f'{stage}_peak_bytes'] = _resident('VmHWM')
    print(json.dumps(found))


if __name__ == '__main__':
    _child(*sys.argv[1:])
