"""Conversion between Hugging Face and Orbax folders, with the parity certificate if asked for."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.data.training_data import read_training_data, training_data_file
from cdjax.errors import InputError
from cdjax.models.hub import resolve_checkpoint
from cdjax.models.huggingface import load_huggingface, read_config
from cdjax.models.huggingface_export import MAX_SHARD_BYTES, save_huggingface
from cdjax.models.llama import Llama
from cdjax.models.orbax_folder import is_orbax_folder, load_orbax, save_orbax
from cdjax.models.parity import (
    Reference,
    load_reference,
    measure_parity,
    own_reference,
    parity_tokens,
    save_reference,
    torch_reference,
    write_certificate,
)
from cdjax.models.target_folder import require_file, require_new
from cdjax.run.folder import absolute

FORMATS = ('huggingface', 'orbax')


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What is converted into what.

    Attributes:
        source: a checkpoint folder of either format, or a hub id.
        target: the folder to make.
        to: format of the target; the other one than the source's where None.
        dtype: dtype of the target's weights; as stored where None.
        max_shard_bytes: largest file of a Hugging Face target.
        check: whether the certificate is written, as TARGET.parity.json.
        golden: golden file to compare with, in place of torch; implies `check`.
        save_golden: golden file to write from torch's results; implies `check`.
        keep_layers: the layers of the target, in ascending order; all if None. A student that is
            cut from its teacher so starts with what is left of it.
    """

    source: str
    target: str
    to: str | None = None
    dtype: str | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES
    check: bool = False
    golden: str | None = None
    save_golden: str | None = None
    keep_layers: tuple[int, ...] | None = None


def check_layers(layers: tuple[int, ...], most: int) -> None:
    """Raises InputError for layers that a model of so many lacks, or not in ascending order."""
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < most:
        raise InputError(
            f'keep_layers={",".join(map(str, layers))}: name layers of 0 to {most - 1}, each once '
            'and in ascending order'
        )


def keep_layers(model: Llama, layers: tuple[int, ...]) -> Llama:
    """Returns a model of some layers of another, the others dropped.

    Raises:
        InputError: see `check_layers`.
    """
    check_layers(layers, model.config.num_layers)
    cut = jax.tree.map(lambda leaf: leaf, model)  # a tree of its own
    cut.config = dataclasses.replace(model.config, num_layers=len(layers))
    cut.layers = jax.tree.map(lambda leaf: leaf[np.asarray(layers)], model.layers)
    return cut


def convert(
    conversion: Conversion,
    mesh: Mesh | None = None,
    *,
    announce: Callable[[str, Mapping[str, Any]], None] = lambda line, facts: None,
) -> Path:
    """Converts a checkpoint, and proves it equal where the conversion asks for it.

    The certificate compares the loaded model with transformers' (or the golden file) before
    anything is written, and what was written, loaded anew, with transformers' model of it; an
    Orbax target with the model that was written into it.

    Args:
        conversion: what into what.
        mesh: where the model is held meanwhile; one device if None.
        announce: is told what is made of what, in one line and field by field, before anything is
            loaded.

    Returns:
        The target folder.

    Raises:
        InputError: a source that cannot be read, a target that exists, or a model that does not
            compute the same. Then there is no target, but there is the certificate.
    """
    c = conversion
    target = absolute(c.target)
    require_new(target)
    from_orbax = is_orbax_folder(absolute(c.source))
    source = absolute(c.source) if from_orbax else resolve_checkpoint(c.source)
    shape = read_config(source)
    if c.keep_layers is not None:
        check_layers(c.keep_layers, shape.num_layers)
    to = c.to or FORMATS[not from_orbax]
    check = c.check or c.golden is not None or c.save_golden is not None
    if check and jax.process_count() > 1:
        raise InputError('--check runs in one process: convert without it, and check afterwards')
    if c.save_golden is not None and (from_orbax or c.golden is not None):
        raise InputError(
            '--save_golden stores what transformers computes: it needs a Hugging Face --source '
            'and no --golden'
        )
    if c.save_golden is not None:
        require_file(absolute(c.save_golden))
        if absolute(c.save_golden).exists():
            raise InputError(f'save_golden={c.save_golden} exists: name another file, or remove it')
    golden = None if c.golden is None else load_reference(c.golden)
    certificate = certificate_path(target)
    stages = {}
    facts = {**dataclasses.asdict(c), 'source': str(source), 'target': str(target), 'to': to}
    announce(f'{source} to {target}, {to}' + (' with a certificate' if check else ''), facts)

    # A check at load wants the weights as they are stored.
    model = load_orbax(source, mesh=mesh) if from_orbax else _load(source, mesh, c, check)
    if check:
        reference = golden
        if reference is None and not from_orbax:
            reference = torch_reference(source, parity_tokens(model.config))
        if c.save_golden is not None:
            save_reference(reference, c.save_golden)
        if reference is not None:
            stages['load'] = measure_parity(model, reference)
            write_certificate(certificate, stages)
    if c.dtype is not None:
        model = _cast(model, c.dtype)
    if c.keep_layers is not None:
        model, golden = keep_layers(model, c.keep_layers), None  # which is of all layers

    files = {'tokenizer_from': source, 'require_tokenizer': False}
    if trainings := read_training_data(source):
        files['beside'] = training_data_file(trainings)
    if to == 'huggingface':
        save_huggingface(model, target, max_shard_bytes=c.max_shard_bytes, **files)
    else:
        save_orbax(model, target, **files)
    if check:
        reference = _export_reference(model, target, to, golden if c.dtype is None else None)
        del model
        again = (load_huggingface if to == 'huggingface' else load_orbax)(target, mesh=mesh)
        stages['export'] = measure_parity(again, reference)
        try:
            write_certificate(certificate, stages)
        except InputError:
            target.rmtree()
            raise
    return target


def certificate_path(target: str | os.PathLike) -> epath.Path:
    """Returns where the certificate of a target is: TARGET.parity.json, beside the folder."""
    target = epath.Path(target).expanduser()
    return target.with_name(f'{target.name}.parity.json')


def _load(source: Path, mesh: Mesh | None, c: Conversion, check: bool) -> Llama:
    return load_huggingface(source, mesh=mesh, dtype=None if check else c.dtype)


def _export_reference(model: Llama, target: Path, to: str, golden: Reference | None) -> Reference:
    if golden is not None:
        return golden
    tokens = parity_tokens(model.config)
    if to == 'huggingface':
        return torch_reference(target, tokens)
    return own_reference(model, tokens, 'the same model before it was written')


def _cast(model: Llama, dtype: str) -> Llama:
    cast = jax.jit(lambda x: x.astype(jnp.dtype(dtype)))
    return jax.tree.map(cast, model)
