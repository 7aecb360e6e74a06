"""Named tensors in a folder of safetensors files: read in slices, written as a stream.

Reading maps no more of a file at a time than one chunk, and writing holds no more than one chunk
in host memory, whatever the size of the tensors.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from cdjax.errors import InputError
from cdjax.run.json_file import read_json
from cdjax.run.progress import progress

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
CHUNK_BYTES = 1 << 23
# A checkpoint up to this size is hashed whole, which takes a second or two.
WHOLE_BYTES = 1 << 30

# The dtypes that a weight may have, by their name in the header of a file.
DTYPES = {
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F16': np.dtype(np.float16),
    'F32': np.dtype(np.float32),
    'F64': np.dtype(np.float64),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape, its dtype as the header names it, and where it is."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str

    def chunks(self, index: tuple[slice, ...]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields `self[index]` in chunks of rows, each with the number of its first row.

        Args:
            index: a slice of step 1 for each axis of the tensor.
        """
        first, *rest = index
        start, stop, _ = first.indices(self.shape[0])
        row_bytes = np.prod(self.shape[1:], dtype=int) * DTYPES[self.dtype].itemsize
        rows = max(1, CHUNK_BYTES // int(row_bytes))
        for at in range(start, stop, rows):
            # Opened anew: pages stay mapped, and count as resident, as long as a file is open.
            with safe_open(self.file, framework='np') as file:
                part = file.get_slice(self.name)[(slice(at, min(at + rows, stop)), *rest)]
            yield at - start, part


def list_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a checkpoint folder by name, from the headers of its files.

    Raises:
        InputError: no safetensors file, an index that does not fit the files, a file that is
            truncated or otherwise unreadable.
    """
    index = _read_index(folder)
    names = [SINGLE] if index is None else sorted(set(index.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise InputError(
            f'{folder / INDEX} names {", ".join(absent)}, which the folder lacks: '
            'fetch the missing files, or the whole checkpoint, again'
        )
    tensors = {}
    for file in (folder / name for name in names):
        try:
            with safe_open(file, framework='np') as opened:
                for name in opened.keys():
                    view = opened.get_slice(name)
                    shape = tuple(view.get_shape())
                    tensors[name] = StoredTensor(name, file, shape, view.get_dtype())
        except (SafetensorError, OSError) as error:
            raise InputError(
                f'{file} ({file.stat().st_size:,} bytes) is truncated or no safetensors file '
                f'({str(error).splitlines()[0]}): fetch it again'
            ) from error
    found = {name: tensor.file.name for name, tensor in tensors.items()}
    differing = set((index or found).items()) ^ set(found.items())
    if astray := sorted({name for name, _ in differing}):
        raise InputError(
            f'{folder / INDEX} and the headers of its files disagree about {summarise(astray)}: '
            'fetch the checkpoint again'
        )
    return tensors


def fingerprint(folder: Path) -> str:
    """Returns what tells two checkpoints apart without reading them whole: 16 hexadecimal digits.

    A hash of the names, shapes and dtypes of all tensors, and of all weights where they are at most
    `WHOLE_BYTES`. Of a larger checkpoint a row in the middle of each tensor is read: a training
    changes it, and so does an edit along a whole matrix, but not that of a single neuron's row.

    Raises:
        InputError: what `list_tensors` raises.
    """
    digest = hashlib.sha256()
    tensors = list_tensors(folder)
    whole = sum(file.stat().st_size for file in {t.file for t in tensors.values()}) <= WHOLE_BYTES
    for name, tensor in sorted(tensors.items()):
        digest.update(f'{name} {tensor.dtype} {tensor.shape}'.encode())
        if tensor.dtype in DTYPES and 0 not in tensor.shape and tensor.shape:
            rows, *others = tensor.shape
            middle = slice(rows // 2, rows // 2 + 1)
            middle = slice(None) if whole or not others else middle
            for _, row in tensor.chunks((middle, *(slice(None) for _ in others))):
                digest.update(np.ascontiguousarray(row).view(np.uint8))
    return digest.hexdigest()[:16]


def _read_index(folder: Path) -> dict[str, str] | None:
    """Returns tensor name -> file name, or None where the folder holds one file."""
    if (folder / INDEX).is_file():
        try:
            files = dict(read_json(folder / INDEX)['weight_map'])
            # A checkpoint is read where it is, and not wherever its index points.
            if astray := [file for file in files.values() if Path(file).name != file]:
                raise ValueError(f'{astray[0]!r} is no name of a file in this folder')
            return files
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{folder / INDEX} is no index of safetensors files: {error}'
            ) from error
    if (folder / SINGLE).is_file():
        return None
    pickles = sorted(
        file.name for suffix in ('bin', 'pth', 'pt') for file in folder.glob(f'*.{suffix}')
    )
    if pickles:
        raise InputError(
            f'{folder} holds its weights as pickle files ({summarise(pickles)}), which can run '
            'any code when they are opened and are not read; convert them once, where you trust '
            'them, with transformers: '
            f"AutoModelForCausalLM.from_pretrained('{folder}', dtype='auto')"
            ".save_pretrained('NEW_FOLDER')"
        )
    raise InputError(
        f'{folder} holds neither {SINGLE} nor {INDEX}: name the folder of a Hugging Face checkpoint'
    )


def summarise(names: Iterable[str], most: int = 8) -> str:
    """Returns names joined by commas, the layers of one tensor as one: `layers.{0,3-5}.mlp`."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name in names:
        before, _, rest = name.partition('.layers.')
        layer, _, after = rest.partition('.')
        if layer.isdigit():
            groups.setdefault((f'{before}.layers.', f'.{after}'), []).append(int(layer))
        else:
            groups.setdefault((name, ''), [])
    words = [
        f'{before}{layers[0]}{after}'
        if len(layers) == 1
        else (f'{before}{{{_ranges(sorted(layers))}}}{after}' if layers else before)
        for (before, after), layers in groups.items()
    ]
    more = f' and {len(words) - most} more' if len(words) > most else ''
    return ', '.join(words[:most]) + more


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ','.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)


def has_non_finite(array: np.ndarray) -> bool:
    """Whether a float array holds a NaN or an infinity; by its bits, which is fast for bfloat16."""
    bits, exponent = {
        'bfloat16': (np.uint16, 0x7F80),
        'float16': (np.uint16, 0x7C00),
        'float32': (np.uint32, 0x7F800000),
        'float64': (np.uint64, 0x7FF0000000000000),
    }[array.dtype.name]
    return bool(((array.view(bits) & bits(exponent)) == bits(exponent)).any())


@dataclasses.dataclass(frozen=True)
class OutgoingTensor:
    """A tensor to be written: its name, shape, dtype, and its rows in order, chunk by chunk."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: Iterable[np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, without the header of its file."""
        return int(np.prod(self.shape, dtype=int)) * self.dtype.itemsize


def write_tensors(folder: Path, tensors: list[OutgoingTensor], max_shard_bytes: int) -> None:
    """Writes tensors into `folder`: one file, or numbered shards and their index.

    Args:
        folder: an existing folder.
        tensors: in the order of the files.
        max_shard_bytes: bytes of tensors in one file; a larger tensor has a file of its own.
    """
    shards: list[list[OutgoingTensor]] = [[]]
    room = max_shard_bytes
    for tensor in tensors:
        if shards[-1] and tensor.nbytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(tensor)
        room -= tensor.nbytes
    weight_map = {}
    with progress(len(tensors), f'writing {len(shards)} files', unit='tensor') as bar:
        for number, shard in enumerate(shards, 1):
            name = f'model-{number:05d}-of-{len(shards):05d}.safetensors'
            name = SINGLE if len(shards) == 1 else name
            _write_file(folder / name, shard, bar)
            weight_map |= {tensor.name: name for tensor in shard}
    if len(shards) == 1:
        return
    total = sum(tensor.nbytes for tensor in tensors)
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + '\n')


def _write_file(path: Path, tensors: list[OutgoingTensor], bar) -> None:
    """Writes one safetensors file: length of the header, JSON header, the bytes of the tensors."""
    header: dict[str, dict] = {'__metadata__': {'format': 'pt'}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            'dtype': DTYPE_NAMES[tensor.dtype],
            'shape': list(tensor.shape),
            'data_offsets': [start, end],
        }
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for tensor in tensors:
            for chunk in tensor.chunks:
                # A transposed view would be written in the wrong order without this.
                file.write(np.ascontiguousarray(chunk).view(np.uint8))
            bar.update()
        assert file.tell() == 8 + len(text) + end, f'{path} has not the size of its header'
        file.flush()
        os.fsync(file.fileno())
