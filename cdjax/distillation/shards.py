"""A teacher's store on disk: in shards, with a manifest of their hashes, read where they lie.

    manifest.json            what was stored of whom, and each shard: rows, files, sizes, hashes
    activations-00000.npy    [rows, layers, ...]
    logits-00000.npy         [rows, V]; of the top k `log_probabilities-` and `indices-`, [rows, k];
                             of answers of A > 1 tokens [rows, A, V] and [rows, A, k]
    outputs.npy              [layers, U x ..., D], where they are wanted

A shard counts once the manifest tells of it: a kill leaves files that are written again. All
trainings that want the same of the same teacher and problems share one folder.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from cdjax.circuits.circuit import model_hash
from cdjax.data import Dataset
from cdjax.distillation.store import TeacherStore, Wanted
from cdjax.errors import InputError
from cdjax.losses import TopKLogits
from cdjax.models import Llama, LlamaConfig
from cdjax.models.target_folder import require_writable
from cdjax.parallel.multihost import from_process_0
from cdjax.parallel.preemption import heed_preemption
from cdjax.run.buckets import is_remote
from cdjax.run.folder import as_json, await_file, make_folder, require_space, write_atomically
from cdjax.run.json_file import read_json

MANIFEST = 'manifest.json'
FORMAT = 2
ROWS = 2048  # of a shard

# What a store belongs to, by key of its manifest, and what to do where it does not.
_ORIGINS = {
    'teacher': 'another teacher',
    'answer_tokens': 'answers of another number of tokens',
    'data': 'other problems, or another split of them',
    'wanted': 'another site, other layers, positions or another form of the logits',
}


class Shards:
    """Rows in several arrays on disk, indexed like one; only rows that are asked for are read.

    Args:
        parts: arrays `[rows, ...]`, mapped into memory.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.shape = (int(self._ends[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns these rows, in this order."""
        index = np.arange(len(self))[rows]
        found = np.empty((*index.shape, *self.shape[1:]), self.dtype)
        of_part = np.searchsorted(self._ends, index, side='right')
        for part in np.unique(of_part):
            here = of_part == part
            start = self._ends[part] - len(self.parts[part])
            found[here] = self.parts[part][index[here] - start]
        return found


def stored_teacher(
    folder: epath.PathLike,
    teacher: Llama,
    dataset: Dataset,
    wanted: Wanted,
    *,
    rows: int = ROWS,
    **passes: Any,
) -> TeacherStore:
    """Returns what is stored of a teacher, computing what is not there yet.

    Args:
        folder: of the store, on a disk that all processes see.
        teacher: the teacher.
        dataset: N problems.
        wanted: what is stored of it.
        rows: of a new shard.
        **passes: `mesh` and `tokens_per_pass`.

    Raises:
        InputError: what `Wanted.of` raises; a folder in a bucket; a store of another teacher, of
            other problems or of something else; a shard that is cut short or changed.
    """
    folder = _on_disk(folder)
    wanted = wanted.of(teacher.config, dataset)
    belongs = as_json({**_facts(dataset, wanted), 'teacher': model_hash(teacher), 'rows': rows})
    manifest = json.loads(from_process_0(lambda: json.dumps(_read(folder, belongs))))
    if jax.process_index() == 0:
        make_folder(folder, 'teacher_store')
    starts = range(0, len(dataset), manifest['rows'])
    if len(manifest['shards']) < len(starts):
        _complete(folder, manifest, starts, teacher, dataset, wanted, passes)
    await_file(folder / MANIFEST)
    return _open(folder, manifest, teacher, wanted, dataset.answer_tokens)


def check_stored(
    folder: epath.PathLike,
    shape: LlamaConfig,
    dataset: Dataset,
    wanted: Wanted,
    *,
    teacher: Llama | None = None,
    problems_known: bool = True,
) -> None:
    """Raises InputError for a store that `stored_teacher` would refuse, at little cost.

    Of its files the sizes are looked at; their content is when they are read. A folder that holds
    no store is none to refuse.

    Args:
        folder: of the store.
        shape: of the teacher.
        dataset: N problems.
        wanted: what is stored of it.
        teacher: the teacher; it is not compared as long as it is None.
        problems_known: whether it is known already which problems are left of `dataset`.
    """
    folder = _on_disk(folder)
    facts = _facts(dataset, wanted.of(shape, dataset))
    if not (folder / MANIFEST).exists():
        return
    if teacher is not None:
        facts['teacher'] = model_hash(teacher)
    if not problems_known:
        del facts['data']
    _read(folder, as_json(facts), contents=False)


def check_place(folder: epath.PathLike) -> None:
    """Raises InputError for a folder in which no store can be written."""
    folder = _on_disk(folder)
    try:
        require_writable(folder / MANIFEST)
    except InputError as error:
        raise InputError(f'teacher_store={folder}: {error}') from error


def _on_disk(folder: epath.PathLike) -> epath.Path:
    """Returns the folder of a store, and raises InputError for one in a bucket."""
    folder = epath.Path(folder)
    if is_remote(folder):
        raise InputError(
            f'teacher_store={folder} lies in a bucket, and a store is read where it lies: name a '
            'folder on a disk'
        )
    return folder


def _facts(dataset: Dataset, wanted: Wanted) -> dict[str, Any]:
    return {
        'answer_tokens': dataset.answer_tokens,
        'data': dataset.hash,
        'wanted': wanted,
    }


def _read(
    folder: epath.Path, belongs: Mapping[str, Any], *, contents: bool = True
) -> dict[str, Any]:
    """Returns the manifest of a folder, empty where there is none, its shards checked."""
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


def _complete(folder, manifest, starts, teacher, dataset, wanted, passes) -> None:
    """Computes the shards that are missing, and tells the manifest of each once it is there."""
    for start in starts[len(manifest['shards']) :]:
        heed_preemption()
        index = np.arange(start, min(start + manifest['rows'], len(dataset)))
        said = wanted.say(teacher, dataset[index], description='teacher activations', **passes)
        arrays = _named(*said)
        if start == 0 and wanted.outputs:
            arrays['outputs'] = wanted.output_matrices(teacher)
        number = len(manifest['shards'])
        if number == 0 and jax.process_index() == 0:
            size = sum(array.nbytes for array in arrays.values())
            require_space(folder, size * len(starts), 'the store of the teacher')
        files = {}
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array))
            content = buffer.getvalue()
            file = 'outputs.npy' if name == 'outputs' else f'{name}-{number:05d}.npy'
            files[file] = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
            if jax.process_index() == 0:
                write_atomically(folder / file, content)
        manifest['shards'].append(files)
        if jax.process_index() == 0:
            write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + '\n')


def _named(logits: np.ndarray | TopKLogits, activations: np.ndarray) -> dict[str, np.ndarray]:
    if isinstance(logits, TopKLogits):
        kept = {'log_probabilities': logits.log_probabilities, 'indices': logits.indices}
    else:
        kept = {'logits': logits}
    # NumPy's files know no bfloat16; its bits are kept as integers.
    wide = activations.dtype.itemsize != 2 or activations.dtype == np.float16
    return {**kept, 'activations': activations if wide else activations.view(np.uint16)}


def _open(
    folder: epath.Path, manifest, teacher: Llama, wanted: Wanted, answer_tokens: int
) -> TeacherStore:
    def mapped(name: str) -> Shards:
        shards = range(len(manifest['shards']))
        paths = [folder / f'{name}-{number:05d}.npy' for number in shards]
        return Shards([np.load(path, mmap_mode='r') for path in paths])

    if wanted.top_k is None:
        logits = mapped('logits')
    else:
        kept = mapped('log_probabilities'), mapped('indices')
        logits = TopKLogits(*kept, wanted.temperature)
    activations = mapped('activations')
    if activations.dtype == np.uint16:
        activations = Shards([part.view(jax.numpy.bfloat16) for part in activations.parts])
    outputs = np.load(folder / 'outputs.npy', mmap_mode='r') if wanted.outputs else None
    store = TeacherStore.of_rows(
        logits, activations, dataclasses.replace(wanted, outputs=False), teacher, answer_tokens
    )
    return dataclasses.replace(store, outputs=outputs)
