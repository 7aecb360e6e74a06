"""Saving of models as Hugging Face checkpoint folders, tensor after tensor.

Host memory holds one chunk of one tensor beside the arrays, and one tensor where the arrays span
several processes. The folder carries its name only when it is whole.
"""

import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cdjax.errors import InputError
from cdjax.models.config import LlamaConfig
from cdjax.models.huggingface import bounds_of
from cdjax.models.llama import Llama
from cdjax.models.parameters import describe_parameters
from cdjax.models.target_folder import (
    could_not_write,
    partial_name,
    raise_on_all,
    require_new,
    require_room,
    whole_folder,
)
from cdjax.models.tensor_files import CHUNK_BYTES, OutgoingTensor, write_tensors
from cdjax.run.buckets import is_remote, outgoing_folder
from cdjax.run.folder import absolute

# Files beside the weights that belong to the tokenizer, or say how to generate.
COMPANIONS = (
    *('tokenizer.json', 'tokenizer.model', 'tokenizer_config.json', 'special_tokens_map.json'),
    *('added_tokens.json', 'vocab.json', 'merges.txt', 'chat_template.jinja'),
    *('chat_template.json', 'generation_config.json'),
)
TOKEN_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')
MAX_SHARD_BYTES = 5 * 10**9


def save_huggingface(
    model: Llama,
    path: str | os.PathLike,
    *,
    tokenizer_from: str | os.PathLike | None = None,
    require_tokenizer: bool = True,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Saves a Llama as a Hugging Face checkpoint folder, which transformers 4.x and 5.x load.

    Written as a stream into a folder beside the target, which takes the target's name when it is
    whole: whatever happens, nothing half-written carries that name. Weights keep their dtypes.
    On several processes all must call this; process 0 writes.

    Args:
        model: the model.
        path: the folder to make, local or in a bucket; must not exist, or be empty.
        tokenizer_from: a checkpoint folder whose tokenizer and generation files, and the ids of
            its special tokens, are taken over.
        require_tokenizer: whether it is a mistake if there is no tokenizer in that folder.
        max_shard_bytes: largest size of one file.
        beside: further files of the folder, their text by name.

    Raises:
        InputError: the target exists, cannot be written or lacks room; `tokenizer_from` is no
            folder with a tokenizer.
    """
    target = absolute(path)
    tensors = list(_outgoing(model))
    writes = jax.process_index() == 0
    prepared, problem = None, None
    if writes:
        try:
            prepared = _prepare(model, target, tokenizer_from, require_tokenizer, tensors)
        except InputError as error:
            problem = error
    raise_on_all(problem, target)
    partial = partial_name(target)
    try:
        if writes:
            _write(target, partial, *prepared, beside or {}, tensors, max_shard_bytes)
    except OSError as error:
        problem = could_not_write(target, error)
    finally:
        # Gathering a tensor that spans processes takes all of them, whatever became of the files.
        for tensor in tensors:
            for _ in tensor.chunks if jax.process_count() > 1 else ():
                pass
    raise_on_all(problem, target)


def _write(target, partial, fields, companions, beside, tensors, max_shard_bytes):
    if is_remote(target):
        # A bucket has no rename: the config, without which nothing is loaded, goes there last.
        with outgoing_folder(target, last='config.json') as folder:
            _write_files(epath.Path(folder), fields, companions, beside, tensors, max_shard_bytes)
        return
    with whole_folder(target, partial):
        _write_files(partial, fields, companions, beside, tensors, max_shard_bytes)


def _write_files(folder, fields, companions, beside, tensors, max_shard_bytes):
    write_tensors(Path(folder), tensors, max_shard_bytes)
    for file in companions:
        file.copy(folder / file.name)
    for name, text in beside.items():
        (folder / name).write_text(text)
    (folder / 'config.json').write_text(json.dumps(fields, indent=2) + '\n')


def _prepare(model, target, tokenizer_from, require_tokenizer, tensors):
    """Returns the content of config.json and the files to copy; refuses what cannot end well."""
    require_new(target)
    fields = checkpoint_fields(model.config, tensors[0].dtype.name, tokenizer_from)
    companions = companion_files(tokenizer_from, require_tokenizer)
    require_room(target, sum(tensor.nbytes for tensor in tensors), through_scratch=True)
    return fields, companions


def companion_files(
    folder: str | os.PathLike | None, require_tokenizer: bool = True
) -> list[epath.Path]:
    """Returns the tokenizer and generation files of a checkpoint folder; none of None.

    Raises:
        InputError: the folder holds no tokenizer, where one is required.
    """
    if folder is None:
        return []
    files = [file for file in (epath.Path(folder) / name for name in COMPANIONS) if file.exists()]
    found = any(file.name.startswith(('tokenizer', 'vocab')) for file in files)
    if require_tokenizer and not found:
        raise InputError(f'{folder} holds no tokenizer: name the folder of a checkpoint')
    return files


def checkpoint_fields(config: LlamaConfig, dtype: str, tokenizer_from) -> dict[str, Any]:
    """Returns a `config.json` with the special tokens of another folder, where one is given."""
    fields = config.to_huggingface(dtype)
    if tokenizer_from is None:
        return fields
    beside = epath.Path(tokenizer_from) / 'config.json'
    if beside.exists():
        stored = json.loads(beside.read_text())
        fields |= {name: stored[name] for name in TOKEN_IDS if name in stored}
    return fields


def _outgoing(model: Llama) -> Iterator[OutgoingTensor]:
    """Yields the stored form of each parameter, layer by layer, as transformers orders them."""
    parameters = describe_parameters(model.config)
    held = [
        (layer, parameter, array)
        for parameter, array in zip(parameters, jax.tree.leaves(model), strict=True)
        for layer in range(len(parameter.sources))
    ]
    first, last = ('embed.weight',), ('norm.weight', 'lm_head.weight')
    place = lambda name: 0 if name in first else 2 if name in last else 1
    for layer, parameter, array in sorted(held, key=lambda item: (place(item[1].name), item[0])):
        shape = parameter.stored_shape(array.shape)
        chunks = _host_chunks(array, layer if parameter.stacked else None, parameter.transposed)
        yield OutgoingTensor(parameter.sources[layer], shape, np.dtype(array.dtype), chunks)


def _host_chunks(array, layer: int | None, transposed: bool) -> Iterator[np.ndarray]:
    """Yields `array[layer]`, transposed if so stored, in chunks of rows in host memory."""
    if not isinstance(array, jax.Array):
        array = jnp.asarray(array)
    if not array.is_fully_addressable:
        yield _gathered(array, layer, transposed)
        return
    lead = () if layer is None else (layer,)
    shape = array.shape[len(lead) :]
    stored = shape[::-1] if transposed else shape
    row_bytes = int(np.prod(stored[1:], dtype=int)) * array.dtype.itemsize
    rows = max(1, CHUNK_BYTES // row_bytes)
    shards = {bounds_of(shard.index, array.shape): shard.data for shard in array.addressable_shards}
    for at in range(0, stored[0], rows):
        out = np.empty((min(rows, stored[0] - at), *stored[1:]), array.dtype)
        wanted = [(0, n) for n in shape]
        wanted[-1 if transposed else 0] = (at, at + len(out))
        wanted = [(i, i + 1) for i in lead] + wanted
        for bounds, data in shards.items():
            overlap = [
                (max(a, b), min(c, d)) for (a, c), (b, d) in zip(bounds, wanted, strict=True)
            ]
            if any(start >= stop for start, stop in overlap):
                continue
            starts = [start - low for (start, _), (low, _) in zip(overlap, bounds, strict=True)]
            sizes = [stop - start for start, stop in overlap]
            piece = _cut(data, starts, sizes).reshape(sizes[len(lead) :])
            into = tuple(
                slice(start - low, stop - low)
                for (start, stop), (low, _) in zip(overlap, wanted, strict=True)
            )[len(lead) :]
            (out.T if transposed else out)[into] = piece
        yield out


def _cut(data: jax.Array, starts, sizes) -> np.ndarray:
    """Returns a slice of one device's array in host memory, where nothing else of it goes."""
    (device,) = data.devices()
    if device.platform == 'cpu':  # the array is host memory: a view, without a compilation
        at = zip(starts, sizes, strict=True)
        return np.asarray(data)[tuple(slice(start, start + size) for start, size in at)]
    return np.asarray(jax.lax.dynamic_slice(data, starts, sizes))


def _gathered(array: jax.Array, layer: int | None, transposed: bool) -> np.ndarray:
    """Returns one whole tensor on every process; for arrays that span several."""
    take = _take(array.sharding.mesh, layer is not None, transposed)
    return np.asarray(take(array, layer))


@functools.cache
def _take(mesh: Mesh, stacked: bool, transposed: bool):
    def take(array, layer):
        one = jax.lax.dynamic_index_in_dim(array, layer, 0, False) if stacked else array
        return one.T if transposed else one

    return jax.jit(take, out_shardings=NamedSharding(mesh, P()))
