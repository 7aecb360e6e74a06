"""What a patched teacher answers, on disk: a shard for each source of all problems.

    manifest.json        whose answers they are, and each shard: files, sizes and hashes
    logits-00000.npy     [N, V], with the first source of each problem; of the top k
                         `log_probabilities-` and `indices-`, [N, k]

Every arm and seed that patches other circuits, or draws other sources, has a folder of its own,
named by a hash of both; see `cdjax.distillation.shard_folder`.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from cdjax.circuits.circuit import model_hash
from cdjax.data import Dataset
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.interchange import SOURCES, Interchange, in_layers, patches
from cdjax.distillation.shard_folder import MANIFEST, append, begin, mapped, on_disk
from cdjax.distillation.shards import logits_by_name, named_logits
from cdjax.models import Llama
from cdjax.parallel.preemption import heed_preemption
from cdjax.run.folder import as_json, await_file


class Draws:
    """Answers of N problems with each of R sources, `[N, R, ...]`; those asked for are read.

    Args:
        parts: R arrays `[N, ...]`, mapped into memory.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = list(parts)
        self.shape = (len(self.parts[0]), len(self.parts), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype

    def __getitem__(self, places: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Returns the answers of problems `[B]`, each with one source `[B]`."""
        problems, sources = places
        found = np.empty((len(problems), *self.shape[2:]), self.dtype)
        for source in np.unique(sources):
            here = sources == source
            found[here] = self.parts[source][problems[here]]
        return found


def stored_interchange(
    folder: epath.PathLike,
    teacher: Llama,
    dataset: Dataset,
    alignment: Alignment,
    *,
    seed: int,
    top_k: tuple[int, float] | None = None,
    sources: int = SOURCES,
    **passes,
) -> Interchange:
    """Returns what `patch_teacher` does, from disk, asking for what is not there yet.

    Args:
        folder: of all such answers, on a disk that all processes see.
        teacher: see `patch_teacher`, like the others.
        dataset: N problems.
        alignment: as there.
        seed: as there.
        top_k: as there.
        sources: R.
        **passes: as there.

    Raises:
        InputError: what `patch_teacher` raises; a folder in a bucket; answers of another teacher or
            to other problems; a shard that is cut short or changed; a disk that is too small.
    """
    drawn, said = patches(
        teacher, dataset, alignment, seed=seed, top_k=top_k, sources=sources, **passes
    )
    wanted = {'site': alignment.site, 'positions': alignment.positions, 'top_k': top_k}
    belongs = {'answer_tokens': 1, 'data': dataset.hash, 'wanted': wanted}
    belongs = as_json({**belongs, 'teacher': model_hash(teacher)})
    folder = on_disk(folder) / _patch_hash(alignment, drawn)
    manifest = begin(folder, belongs)
    for r in range(len(manifest['shards']), sources):
        heed_preemption()
        append(folder, manifest, named_logits(said(r)), shards=sources)
    await_file(folder / MANIFEST)
    draws = lambda name: Draws(mapped(folder, manifest, name))
    return Interchange(drawn, logits_by_name(draws, None if top_k is None else top_k[1]))


def _patch_hash(alignment: Alignment, drawn: np.ndarray) -> str:
    """Returns a hash of which units are patched in each problem, and from which others."""
    masks = in_layers(alignment.teacher_masks, alignment.teacher_layers) > 0
    patched = as_json([masks, np.asarray(alignment.classes, np.int32), drawn])
    return hashlib.sha256(json.dumps(patched).encode()).hexdigest()[:16]
