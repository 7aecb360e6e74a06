"""A folder of shards: arrays in files, and a manifest that tells of each which is complete.

    manifest.json    whose it is and of what, and each shard: its files, their sizes and hashes
    NAME-00000.npy   an array of the first shard

A shard counts once the manifest tells of it: a kill leaves files that are written again.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from cdjax.errors import InputError
from cdjax.models.target_folder import require_writable
from cdjax.parallel.multihost import from_process_0
from cdjax.run.buckets import is_remote
from cdjax.run.folder import make_folder, require_space, write_atomically
from cdjax.run.json_file import read_json

MANIFEST = 'manifest.json'
FORMAT = 2

# What a store belongs to, by key of its manifest, and what to do where it does not.
_ORIGINS = {
    'teacher': 'another teacher',
    'answer_tokens': 'answers of another number of tokens',
    'data': 'other problems, or another split of them',
    'wanted': 'another site, other layers, positions or another form of the logits',
}


def check_place(folder: epath.PathLike) -> None:
    """Raises InputError for a folder in which no store can be written."""
    folder = on_disk(folder)
    try:
        require_writable(folder / MANIFEST)
    except InputError as error:
        raise InputError(f'teacher_store={folder}: {error}') from error


def on_disk(folder: epath.PathLike) -> epath.Path:
    """Returns the folder of a store, and raises InputError for one in a bucket."""
    folder = epath.Path(folder)
    if is_remote(folder):
        raise InputError(
            f'teacher_store={folder} lies in a bucket, and a store is read where it lies: name a '
            'folder on a disk'
        )
    return folder


def begin(folder: epath.Path, belongs: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a folder where there is none, and returns its manifest, the same on all processes.

    Args:
        folder: of the shards.
        belongs: what the manifest says of whose they are, as JSON.

    Raises:
        InputError: shards of something else, or one that is cut short or changed.
    """
    manifest = json.loads(from_process_0(lambda: json.dumps(read(folder, belongs))))
    if jax.process_index() == 0:
        make_folder(folder, 'teacher_store')
    return manifest


def read(
    folder: epath.Path, belongs: Mapping[str, Any], *, contents: bool = True
) -> dict[str, Any]:
    """Returns the manifest of a folder, empty where there is none, its shards checked.

    Args:
        folder: of the shards.
        belongs: what its manifest has to say.
        contents: whether files are read too, beside their sizes.

    Raises:
        InputError: see `begin`.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {'format': FORMAT, **belongs, 'shards': []}
    try:
        manifest = read_json(path)
        if manifest['format'] != FORMAT:
            raise ValueError(f'format {manifest["format"]}, and this version reads {FORMAT}')
        for key, what in _ORIGINS.items():
            if key in belongs and manifest[key] != belongs[key]:
                raise InputError(
                    f'teacher_store={folder} is of {what}: name another folder, and it is made '
                    'there'
                )
        for shard in manifest['shards']:
            for name, facts in shard.items():
                _check_file(folder / name, facts, contents=contents)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f'{path} is damaged, {error}: remove {folder}, and it is made again'
        ) from error
    return manifest


def _check_file(path: epath.Path, facts: Mapping[str, Any], *, contents: bool) -> None:
    """Raises InputError for a file that is not what was written."""
    remedy = f'remove {path.parent}, and it is made again'
    size = path.stat().length if path.exists() else 0
    if size != facts['bytes']:
        raise InputError(f'{path} has {size:,} bytes and had {facts["bytes"]:,}: {remedy}')
    if not contents:
        return
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while piece := file.read(1 << 24):
            digest.update(piece)
    if digest.hexdigest() != facts['sha256']:
        raise InputError(f'{path} is not what was written there: {remedy}')


def append(
    folder: epath.Path,
    manifest: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    shards: int,
    once: Mapping[str, np.ndarray] = {},
) -> None:
    """Writes the next shard, from process 0, and tells the manifest of it once it is there.

    Args:
        folder: of the shards.
        manifest: as `begin` returned it; the shard is added.
        arrays: of the shard, by name.
        shards: how many there are going to be, for which there has to be room.
        once: arrays that stand beside those of this shard, without a number.

    Raises:
        InputError: a disk without room for all shards.
    """
    number = len(manifest['shards'])
    named = {f'{name}-{number:05d}.npy': array for name, array in arrays.items()}
    named |= {f'{name}.npy': array for name, array in once.items()}
    if number == 0 and jax.process_index() == 0:
        size = sum(array.nbytes for array in named.values())
        require_space(folder, size * shards, 'the store of the teacher')
    files = {}
    for name, array in named.items():
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array))
        content = buffer.getvalue()
        files[name] = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
        if jax.process_index() == 0:
            write_atomically(folder / name, content)
    manifest['shards'].append(files)
    if jax.process_index() == 0:
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + '\n')


def mapped(folder: epath.Path, manifest: Mapping[str, Any], name: str) -> list[np.ndarray]:
    """Returns the arrays of one name, one of each shard, mapped into memory."""
    shards = range(len(manifest['shards']))
    return [np.load(folder / f'{name}-{number:05d}.npy', mmap_mode='r') for number in shards]
