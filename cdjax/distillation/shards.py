"""A teacher's store on disk: in shards, with a manifest of their hashes, read where they lie.

    manifest.json            what was stored of whom, and each shard: rows, files, sizes, hashes
    activations-00000.npy    [rows, layers, ...]
    logits-00000.npy         [rows, V]; of the top k `log_probabilities-` and `indices-`, [rows, k];
                             of answers of A > 1 tokens [rows, A, V] and [rows, A, k]
    outputs.npy              [layers, U x ..., D], where they are wanted

All trainings that want the same of the same teacher and problems share one folder; see
`cdjax.distillation.shard_folder`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from cdjax.circuits.circuit import model_hash
from cdjax.data import Dataset
from cdjax.distillation.shard_folder import MANIFEST, append, begin, mapped, on_disk, read
from cdjax.distillation.store import TeacherStore, Wanted
from cdjax.losses import TopKLogits
from cdjax.models import Llama, LlamaConfig
from cdjax.parallel.preemption import heed_preemption
from cdjax.run.folder import as_json, await_file

ROWS = 2048  # of a shard


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
    folder = on_disk(folder)
    wanted = wanted.of(teacher.config, dataset)
    belongs = as_json({**_facts(dataset, wanted), 'teacher': model_hash(teacher), 'rows': rows})
    manifest = begin(folder, belongs)
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
    folder = on_disk(folder)
    facts = _facts(dataset, wanted.of(shape, dataset))
    if not (folder / MANIFEST).exists():
        return
    if teacher is not None:
        facts['teacher'] = model_hash(teacher)
    if not problems_known:
        del facts['data']
    read(folder, as_json(facts), contents=False)


def _facts(dataset: Dataset, wanted: Wanted) -> dict[str, Any]:
    return {
        'answer_tokens': dataset.answer_tokens,
        'data': dataset.hash,
        'wanted': wanted,
    }


def _complete(folder, manifest, starts, teacher, dataset, wanted, passes) -> None:
    """Computes the shards that are missing, and tells the manifest of each once it is there."""
    for start in starts[len(manifest['shards']) :]:
        heed_preemption()
        index = np.arange(start, min(start + manifest['rows'], len(dataset)))
        said = wanted.say(teacher, dataset[index], description='teacher activations', **passes)
        outputs = start == 0 and wanted.outputs
        once = {'outputs': wanted.output_matrices(teacher)} if outputs else {}
        append(folder, manifest, _named(*said), shards=len(starts), once=once)


def named_logits(logits: np.ndarray | TopKLogits) -> dict[str, np.ndarray]:
    """Returns the arrays of logits by the names of their files."""
    if isinstance(logits, TopKLogits):
        return {'log_probabilities': logits.log_probabilities, 'indices': logits.indices}
    return {'logits': logits}


def logits_by_name(rows: Callable[[str], Any], temperature: float | None) -> Any:
    """Returns the logits that `named_logits` took apart.

    Args:
        rows: name of a file → its rows.
        temperature: of the top k; None of all logits.
    """
    if temperature is None:
        return rows('logits')
    return TopKLogits(rows('log_probabilities'), rows('indices'), temperature)


def _named(logits: np.ndarray | TopKLogits, activations: np.ndarray) -> dict[str, np.ndarray]:
    # NumPy's files know no bfloat16; its bits are kept as integers.
    wide = activations.dtype.itemsize != 2 or activations.dtype == np.float16
    activations = activations if wide else activations.view(np.uint16)
    return {**named_logits(logits), 'activations': activations}


def _open(
    folder: epath.Path, manifest, teacher: Llama, wanted: Wanted, answer_tokens: int
) -> TeacherStore:
    rows = lambda name: Shards(mapped(folder, manifest, name))
    logits = logits_by_name(rows, None if wanted.top_k is None else wanted.temperature)
    activations = rows('activations')
    if activations.dtype == np.uint16:
        activations = Shards([part.view(jax.numpy.bfloat16) for part in activations.parts])
    outputs = np.load(folder / 'outputs.npy', mmap_mode='r') if wanted.outputs else None
    store = TeacherStore.of_rows(
        logits, activations, dataclasses.replace(wanted, outputs=False), teacher, answer_tokens
    )
    return dataclasses.replace(store, outputs=outputs)
