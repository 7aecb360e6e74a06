"""A model as an Orbax folder: `config.json`, the tokenizer, and the parameters with checksums."""

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from cdjax.errors import InputError
from cdjax.models.huggingface import read_config
from cdjax.models.huggingface_export import checkpoint_fields, companion_files
from cdjax.models.llama import Llama
from cdjax.models.parameters import abstract_model
from cdjax.models.target_folder import (
    could_not_write,
    partial_name,
    raise_on_all,
    require_new,
    require_room,
    whole_folder,
)
from cdjax.parallel.mesh import one_device, parameter_shardings
from cdjax.run.buckets import is_remote
from cdjax.run.checksums import tree_names
from cdjax.run.folder import absolute
from cdjax.run.json_file import read_json

_DTYPES, _PARAMETERS, _PREFIX = 'parameters.json', 'parameters', 'params'


def is_orbax_folder(path: str | os.PathLike) -> bool:
    """Whether `save_orbax` has finished a folder here."""
    return (epath.Path(path) / _DTYPES).exists()


def save_orbax(
    model: Llama,
    path: str | os.PathLike,
    *,
    tokenizer_from: str | os.PathLike | None = None,
    require_tokenizer: bool = True,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Saves a model with Orbax, each process its own part, to a local folder or a bucket.

    A local folder takes its name when it is whole. In a bucket the list of dtypes is written last:
    a folder without it is not taken for a model.

    Args:
        model: the model.
        path: the folder to make; must not exist, or be empty.
        tokenizer_from: a checkpoint folder whose tokenizer and generation files are taken over.
        require_tokenizer: whether it is a mistake if there is no tokenizer in that folder.
        beside: further files of the folder, their text by name.

    Raises:
        InputError: the target exists, cannot be written or lacks room; `tokenizer_from` holds no
            tokenizer.
    """
    from cdjax.run.checkpoints import Checkpoints  # Orbax is slow to import

    target = absolute(path)
    leaves = jax.tree.leaves(model)
    writes = jax.process_index() == 0
    companions, problem = [], None
    if writes:
        try:
            require_new(target)
            require_room(target, sum(leaf.nbytes for leaf in leaves))
            companions = companion_files(tokenizer_from, require_tokenizer)
        except InputError as error:
            problem = error
    raise_on_all(problem, target)
    named = writes and not is_remote(target)
    folder = target if is_remote(target) else partial_name(target)
    try:
        with whole_folder(target, folder) if named else nullcontext():
            with Checkpoints(folder / _PARAMETERS) as checkpoints:
                checkpoints.save(0, {_PREFIX: model}, {}, force=True)
                checkpoints.wait()
            if writes:
                _write_beside(folder, model, companions, tokenizer_from, beside or {})
    except (OSError, ValueError) as error:  # TensorStore calls a full disk a ValueError
        problem = could_not_write(target, error)
    raise_on_all(problem, target)


def _write_beside(folder, model, companions, tokenizer_from, beside):
    leaves = jax.tree.leaves(model)
    dtypes = dict(zip(tree_names(model), (leaf.dtype.name for leaf in leaves), strict=True))
    fields = checkpoint_fields(model.config, leaves[0].dtype.name, tokenizer_from)
    for file in companions:
        file.copy(folder / file.name)
    for name, text in beside.items():
        (folder / name).write_text(text)
    (folder / 'config.json').write_text(json.dumps(fields, indent=2) + '\n')
    (folder / _DTYPES).write_text(json.dumps(dtypes, indent=2) + '\n')


def load_orbax(path: str | os.PathLike, *, mesh: Mesh | None = None) -> Llama:
    """Loads what `save_orbax` saved, onto any mesh; the checksums are verified.

    Args:
        path: the folder.
        mesh: the mesh to place the parameters on; one device if None.

    Raises:
        InputError: the folder is no such one, or its parameters are damaged.
    """
    from cdjax.run.checkpoints import Checkpoints  # Orbax is slow to import

    source = epath.Path(path)
    if not is_orbax_folder(source):
        raise InputError(f'{source} is no folder that experiments.convert made ({_DTYPES} lacks)')
    abstract = abstract_model(read_config(source))
    try:
        dtypes = read_json(source / _DTYPES)
        dtypes = [jnp.dtype(dtypes[name]) for name in tree_names(abstract)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{source / _DTYPES} is damaged ({error}): convert again') from error
    mesh = one_device() if mesh is None else mesh
    leaves, treedef = jax.tree.flatten(abstract)
    shardings = jax.tree.leaves(parameter_shardings(abstract, mesh))
    wanted = [
        jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)
        for leaf, dtype, sharding in zip(leaves, dtypes, shardings, strict=True)
    ]
    with Checkpoints(source / _PARAMETERS, read_only=True) as checkpoints:
        try:
            return checkpoints.restore_parameters(treedef.unflatten(wanted), _PREFIX)
        except InputError as error:
            raise InputError(
                f'the parameters in {source} are damaged or of another model than its config.json '
                'says: convert again'
            ) from error
