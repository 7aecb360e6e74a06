"""Loading of Hugging Face checkpoint folders, streamed, at any size and onto any mesh.

The abstract tree of the model (`jax.eval_shape`) drives it: for each parameter
`parameters.TENSORS` names the stored tensors, and for each distinct slice of it that a device of
this process holds, exactly that slice is read from the files, into one slice of host memory.
"""

import dataclasses
import os
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding

from cdjax.errors import InputError
from cdjax.models.config import LlamaConfig
from cdjax.models.llama import Llama
from cdjax.models.parameters import Parameter, abstract_model, describe_parameters
from cdjax.models.tensor_files import (
    DTYPES,
    StoredTensor,
    has_non_finite,
    list_tensors,
    summarise,
)
from cdjax.parallel.mesh import one_device, parameter_shardings
from cdjax.run.buckets import is_remote, local_folder
from cdjax.run.json_file import read_json
from cdjax.run.progress import Progress, progress

# A buffer that old exports carry; it follows from the config.
IGNORED_SUFFIX = '.rotary_emb.inv_freq'


def read_config(path: str | os.PathLike) -> LlamaConfig:
    """Returns the config of a checkpoint folder, before any weight is touched.

    Raises:
        InputError: the folder or its `config.json` is absent, or describes no Llama.
    """
    folder = epath.Path(path)
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder: name the folder of a Hugging Face checkpoint')
    file = folder / 'config.json'
    if not file.exists():
        raise InputError(
            f'{folder} holds no config.json: name the folder of a Hugging Face checkpoint'
        )
    return read_shape(file)


def read_shape(path: str | os.PathLike) -> LlamaConfig:
    """Returns the config that a file like `config.json` describes.

    Raises:
        InputError: the file is absent, or describes no Llama.
    """
    file = epath.Path(path)
    if not file.exists():
        raise InputError(f'{file} is no file: name the config.json of a Llama')
    try:
        fields = read_json(file)
        if not isinstance(fields, dict):
            raise ValueError('no JSON object')
    except ValueError as error:
        raise InputError(f'{file} is no config of a model: {error}') from error
    try:
        return LlamaConfig.from_huggingface(fields)
    except InputError as error:
        raise InputError(f'{file}: {error}') from error


def check_huggingface(path: str | os.PathLike, *, dtype=None) -> LlamaConfig:
    """Returns the config of a local checkpoint folder whose files fit it, by their headers.

    To be asked before what takes long, or leaves something behind. No weight is read, but for a
    head that is stored beside the embedding it is tied to.

    Args:
        path: a folder on this machine.
        dtype: as it is going to be loaded, see `load_huggingface`.

    Raises:
        InputError: what `load_huggingface` raises.
    """
    return _checked(Path(path), dtype)[0]


def _checked(folder: Path, dtype) -> tuple[LlamaConfig, Llama, dict[str, StoredTensor]]:
    """Returns config, abstract model and stored tensors of a folder, which fit each other."""
    config = read_config(folder)
    tensors = list_tensors(folder)
    abstract = abstract_model(config)
    leaves = jax.tree.leaves(abstract)
    _check_tensors(folder, config, describe_parameters(config), leaves, tensors, dtype)
    return config, abstract, tensors


def load_huggingface(path: str | os.PathLike, *, mesh: Mesh | None = None, dtype=None) -> Llama:
    """Loads a Llama from a Hugging Face checkpoint folder (safetensors, one file or many).

    Each process reads only what its own devices hold, each slice once however many devices hold
    it. Beside the arrays, host memory holds one device's slice of one parameter at a time.

    Args:
        path: a local folder; the id of a repository on the hub (`meta-llama/Llama-3.2-1B`), which
            is fetched where the hub's cache lacks it; or a folder in a bucket, of which each
            process makes a copy on its disk meanwhile.
        mesh: the mesh to place the parameters on (`LLAMA_RULES`); one device if None.
        dtype: dtype of all parameters; where None each keeps the dtype it is stored in (layers
            stored in several dtypes take the one that holds them all).

    Returns:
        The model.

    Raises:
        InputError: neither a folder nor a repository, or no access to it; a broken folder, an
            unsupported config, or tensors that are missing, left over, misshapen or of a dtype that
            is no float; all mismatches are named at once.

    Warns:
        UserWarning: a weight is NaN or infinite; the tensors are named.
    """
    from cdjax.models.hub import resolve_checkpoint  # it reads configs by this module

    mesh = one_device() if mesh is None else mesh
    with local_folder(path) as folder:
        return _load(folder if is_remote(path) else resolve_checkpoint(path), mesh, dtype)


def _load(folder: Path, mesh: Mesh, dtype) -> Llama:
    config, abstract, tensors = _checked(folder, dtype)
    parameters = describe_parameters(config)
    leaves, treedef = jax.tree.flatten(abstract)
    shardings = jax.tree.leaves(parameter_shardings(abstract, mesh))
    slices = [_local_slices(leaf.shape, s) for leaf, s in zip(leaves, shardings, strict=True)]
    reads = sum(len(each) * len(p.sources) for each, p in zip(slices, parameters, strict=True))
    damaged: list[str] = []
    arrays = []
    with progress(reads, f'loading {folder.name}', unit='tensor') as bar:
        for parameter, leaf, sharding, devices_of in zip(
            parameters, leaves, shardings, slices, strict=True
        ):
            sources = [tensors[name] for name in parameter.sources]
            kept = np.dtype(dtype or jnp.result_type(*(DTYPES[each.dtype] for each in sources)))
            reader = _SliceReader(parameter, sources, leaf.shape, kept, damaged, bar)
            arrays.append(_place(reader, sharding, devices_of))
    if damaged:
        warnings.warn(
            f'{folder}: NaN or infinite weights in {summarise(dict.fromkeys(damaged))}',
            stacklevel=2,
        )
    return treedef.unflatten(arrays)


def _check_tensors(folder, config, parameters, leaves, tensors, dtype):
    """Raises one InputError that names every mismatch between the files and the config."""
    missing, misshapen, no_float = [], [], []
    for parameter, leaf in zip(parameters, leaves, strict=True):
        wanted = parameter.stored_shape(leaf.shape)
        for name in parameter.sources:
            if name not in tensors:
                missing.append(name)
            elif tensors[name].shape != wanted:
                misshapen.append(f'{name} has {tensors[name].shape}, the config asks for {wanted}')
    expected = {name for parameter in parameters for name in parameter.sources}
    extra = [n for n in tensors if n not in expected and not n.endswith(IGNORED_SUFFIX)]
    no_float = [
        f'{n} ({tensors[n].dtype})'
        for n in expected & set(tensors)
        if tensors[n].dtype not in DTYPES
    ]
    if config.tie_embeddings and 'lm_head.weight' in extra:
        extra.remove('lm_head.weight')
        if not _equal(tensors['lm_head.weight'], tensors.get('model.embed_tokens.weight')):
            extra.append('lm_head.weight (the config ties it to the embedding, which differs)')
    too_wide = [n for n in expected & set(tensors) if tensors[n].dtype == 'F64']
    problems = []
    if too_wide and dtype is None:
        problems.append(f'float64, ask for dtype=float32: {summarise(sorted(too_wide))}')
    if missing:
        problems.append(f'missing: {summarise(missing)}')
    if extra:
        problems.append(f'not part of the model: {summarise(extra)}')
    if misshapen:
        problems.append(f'misshapen: {"; ".join(misshapen)}')
    if no_float:
        problems.append(f'no float that can be read ({", ".join(DTYPES)}): {summarise(no_float)}')
    if problems:
        raise InputError(
            f'the tensors of {folder} do not fit its config.json: {"; ".join(problems)}'
        )


def _equal(a: StoredTensor, b: StoredTensor | None) -> bool:
    """Whether two stored tensors are the same, as a tied model that also stores its head has it."""
    if b is None or (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    whole = tuple(slice(None) for _ in a.shape)
    pairs = zip(a.chunks(whole), b.chunks(whole), strict=True)
    return all(np.array_equal(x.view(np.uint8), y.view(np.uint8)) for (_, x), (_, y) in pairs)


@dataclasses.dataclass(frozen=True)
class _SliceReader:
    """Reads slices of one parameter from its stored tensors.

    `damaged` collects the names of tensors with NaN or infinite weights, `bar` counts reads.
    """

    parameter: Parameter
    sources: list[StoredTensor]
    shape: tuple[int, ...]
    dtype: np.dtype
    damaged: list[str]
    bar: Progress

    def __call__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Returns `parameter[index]`, contiguous and in the dtype that was asked for."""
        bounds = [part.indices(n) for part, n in zip(index, self.shape, strict=True)]
        out = np.empty([stop - start for start, stop, _ in bounds], self.dtype)
        if not self.parameter.stacked:
            self._fill(out, self.sources[0], index)
            return out
        for row, layer in enumerate(range(*bounds[0])):
            self._fill(out[row], self.sources[layer], index[1:])
        return out

    def _fill(self, target, source, index):
        if self.parameter.transposed:
            target, index = target.T, index[::-1]
        for row, chunk in source.chunks(index):
            part = target[row : row + len(chunk)]
            part[...] = chunk
            if has_non_finite(part):
                self.damaged.append(source.name)
        self.bar.update()


def _local_slices(shape, sharding: NamedSharding) -> dict[tuple, list]:
    """Returns the distinct slices (start, stop on each axis) of this process and their devices."""
    devices_of: dict[tuple, list] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        devices_of.setdefault(bounds_of(index, shape), []).append(device)
    return devices_of


def bounds_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Returns start and stop of a slice on each axis."""
    return tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True))


def _place(reader: _SliceReader, sharding, devices_of: dict[tuple, list]) -> jax.Array:
    """Returns the parameter on its devices, read one distinct slice after the other."""
    pieces = []
    for bounds, devices in devices_of.items():
        host = reader(tuple(slice(*each) for each in bounds))
        # Waiting here is what lets go of the host's copy before the next one is read.
        pieces += jax.block_until_ready([jax.device_put(host, device) for device in devices])
    return jax.make_array_from_single_device_arrays(reader.shape, sharding, pieces)
