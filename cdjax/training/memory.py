"""Whether a step can fit at all, asked before a folder is claimed and a model is loaded.

A lower bound by formula: what it refuses cannot run, and what it lets pass may still be too large.
`experiments.plan` compiles the step and knows to the byte.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cdjax.errors import InputError
from cdjax.models import LlamaConfig

_FLOAT32 = 4


def least_training_bytes(
    config: LlamaConfig,
    rows: int,
    length: int,
    *,
    remat: str,
    dtype: str = 'float32',
    answer_tokens: int = 1,
    patched: bool = False,
) -> int:
    """Returns bytes that a training step of a model keeps for its backward pass, at least.

    Of each block its input; and unless all is computed again, both arguments of the SwiGLU. Of each
    row the logits of its answer's tokens, in float32.

    Args:
        config: the model.
        rows: sequences that are computed at once (B).
        length: positions of each (T).
        remat: key of `cdjax.models.llama.REMAT_POLICIES`.
        dtype: of the computation.
        answer_tokens: tokens of an answer, each with logits (A).
        patched: whether a pass puts in activations of another one, as of an interchange: that one
            is gone back through behind it, and what either keeps is there at once.
    """
    width = config.hidden_size + (0 if remat == 'full' else 2 * config.intermediate_size)
    blocks = (1 + patched) * length * config.num_layers * width * jnp.dtype(dtype).itemsize
    return rows * (blocks + answer_tokens * config.vocab_size * _FLOAT32)


def least_discovery_bytes(
    config: LlamaConfig, rows: int, length: int, *, ablated: bool, remat: str
) -> int:
    """Returns bytes that a step of a discovery holds of each problem, at least.

    Its mask, or its activations; and where the ablated model runs, its logits and what the backward
    pass through the blocks above the first keeps of them, of weights of at least two bytes.

    Args:
        config: the model.
        rows: problems that are computed at once (B).
        length: positions of each (T).
        ablated: whether the objective runs the ablated model.
        remat: key of `cdjax.models.llama.REMAT_POLICIES`.
    """
    needed = rows * config.num_neurons * _FLOAT32
    if ablated:
        above = dataclasses.replace(config, num_layers=max(config.num_layers - 1, 1))
        needed += least_training_bytes(above, rows, length, remat=remat, dtype='bfloat16')
    return needed


def check_memory(needed: int, mesh: Mesh, *, batch_size: int, name: str = 'batch_size') -> None:
    """Raises InputError where a step takes more than all devices of a mesh have.

    Args:
        needed: bytes, over all devices.
        mesh: the mesh.
        batch_size: of the step, for the message.
        name: of the flag that sets it.
    """
    there = device_memory(mesh)
    if needed > there:
        parts = name.replace('batch_size', 'microbatches')
        raise InputError(
            f'{name}={batch_size} takes at least {needed / 1e9:,.1f} GB a step, and the '
            f'{mesh.devices.size} devices have {there / 1e9:,.1f} GB: choose a smaller one, or '
            f'raise {parts}; experiments.plan says what fits'
        )


def device_memory(mesh: Mesh) -> int:
    """Returns the bytes that programs may use on all devices of a mesh.

    CPU devices share the memory of their hosts.
    """
    devices = mesh.devices.flatten()
    if devices[0].platform == 'cpu':
        hosts = len({device.process_index for device in devices})
        return hosts * os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    local = next(device for device in devices if device.process_index == jax.process_index())
    limit = (local.memory_stats() or {}).get('bytes_limit')
    return len(devices) * limit if limit else 2**63
