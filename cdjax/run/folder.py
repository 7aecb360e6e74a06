"""A run's folder: made once, described by config.json, and never taken over by another run.

Folders may be local or in a bucket (`gs://`): every path is an `etils.epath.Path`.
"""

import dataclasses
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from cdjax.errors import InputError
from cdjax.run.buckets import check_client, is_remote
from cdjax.run.json_file import read_json
from cdjax.run.lock import LOCK, hold

CONFIG = 'config.json'
# Of what a run writes, as docs/artefacts.md describes it: raised whenever a field comes to mean
# something else, so that figures of both are never read as one.
VERSION = 2
_PROBE = '.cdjax-probe-'
_PROBE_BYTES = 1 << 20
VISIBLE_SECONDS = 10.0
_HEAD, _TAIL = 40, 60  # characters of a value in a message: a path's end tells most


def open_workdir(path: str | epath.PathLike, config: dict[str, Any], *, name: str) -> epath.Path:
    """Makes the folder of a run, or verifies that it holds this very run; takes it for its own.

    Process 0 writes; the other processes wait, and verify that they see the same folder.

    Args:
        path: the folder, local or `gs://`.
        config: everything that decides the result of the run; must survive JSON.
        name: what is run (`discover`, `pipeline`): part of what is compared.

    Returns:
        The folder, holding `config.json`, and locked until this process ends (`cdjax.run.lock`).

    Raises:
        InputError: what `check_workdir` raises; or another process runs there, or the folder
            cannot be written or is not shared by all hosts. Nothing that was in it has been
            changed.
    """
    workdir = check_workdir(path, config, name=name)
    wanted = _as_stored(config, name)
    _together(lambda: _claim(workdir, wanted), f'--workdir={workdir} was refused')
    await_file(workdir / CONFIG)
    return workdir


def check_workdir(path: epath.PathLike, config: dict[str, Any], *, name: str) -> epath.Path:
    """Returns the folder that `open_workdir` would make of the same arguments; writes nothing.

    To be asked before what takes long, such as loading a model.

    Raises:
        InputError: the folder holds another run or foreign files, cannot be made, or lies in a
            bucket that cannot be reached.
    """
    if not str(path):
        raise InputError('--workdir= names no folder')
    check_client(path)
    workdir, wanted = absolute(path), _as_stored(config, name)

    def check():
        try:
            _refuse_other_run(workdir, wanted)
            _try_to_make(workdir)
        except OSError as error:
            raise _unwritable(workdir, error) from error

    _together(check, f'--workdir={workdir} was refused')
    return workdir


def _together(action: Callable[[], None], failure: str) -> None:
    """Does something on process 0, and raises on all processes if it raises an InputError there."""
    problem = None
    if jax.process_index() == 0:
        try:
            action()
        except InputError as error:
            problem = error
    if jax.process_count() > 1:
        # Process 0 must arrive here whatever happened, or the others would wait for ever.
        failed = multihost_utils.broadcast_one_to_all(problem is not None)
        if problem is None and failed:
            problem = InputError(f'{failure}; process 0 says why')
    if problem is not None:
        raise problem


def await_file(file: epath.Path) -> None:
    """Returns when all processes see a file that process 0 has written.

    A host may see a shared disk as it was some seconds ago.

    Raises:
        InputError: a process does not see it for `VISIBLE_SECONDS`.
    """
    deadline = time.monotonic() + VISIBLE_SECONDS
    # Listing the folder makes NFS ask the server again, where looking for a name may not.
    while not (seen := file.name in _names(file.parent)) and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = np.asarray(not seen)
    if jax.process_count() > 1:  # one that left alone would be waited for
        blind = multihost_utils.process_allgather(blind)
    if blind.any():
        raise InputError(
            f'{file.parent} as seen by process {np.flatnonzero(blind)[0]} lacks the {file.name} '
            'that process 0 wrote: name a --workdir that all hosts share (NFS, gs://)'
        )


def _names(folder: epath.Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def make_folder(path: epath.Path, flag: str = '--workdir') -> epath.Path:
    """Makes a folder, and proves by a file of 1 MiB that it can be written; returns it.

    Args:
        path: the folder.
        flag: what names it, for the message.

    Raises:
        InputError: it cannot.
    """
    probe = path / f'{_PROBE}{uuid.uuid4().hex}'
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error, flag) from error
    return path


def _try_to_make(path: epath.Path) -> None:
    """Raises OSError where no folder can be made at a local path; one beside it is, and removed."""
    if is_remote(path):
        return
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    probe = there / f'{_PROBE}{uuid.uuid4().hex}'
    probe.mkdir()
    probe.rmdir()


def require_space(path: epath.Path, needed: int, what: str) -> None:
    """Raises InputError unless the disk of a local folder has room for `needed` bytes.

    Args:
        path: an existing folder; buckets are taken to be endless.
        needed: bytes.
        what: what takes them, for the message.
    """
    if is_remote(path):
        return
    free = shutil.disk_usage(path).free
    if free < needed:
        raise InputError(
            f'{what} needs {needed / 1e6:,.1f} MB and the disk of {path} has '
            f'{free / 1e6:,.1f} MB left: free some space or name another --workdir'
        )


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns a path that means the same from every folder; one in an object store as it is."""
    path = epath.Path(path).expanduser()
    return path if is_remote(path) else epath.Path(Path.cwd() / str(path))


def write_atomically(path: epath.Path, content: str | bytes) -> None:
    """Writes a file such that a reader, or a kill, sees the old one or the new one."""
    content = content.encode() if isinstance(content, str) else content
    if is_remote(path):  # a store's upload is atomic, and its rename a copy
        path.write_bytes(content)
        return
    partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.partial')
    partial.write_bytes(content)
    partial.replace(path)


def _plain(value: Any) -> Any:
    """Turns what JSON lacks into what it has: dataclasses to objects, arrays to hashes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (epath.Path, Path)):
        return str(value)
    if isinstance(value, np.ndarray | jax.Array):
        return hashlib.sha256(np.ascontiguousarray(value)).hexdigest()[:16]
    raise TypeError(f'{value!r} of type {type(value).__name__} cannot be part of a config')


def _unwritable(path: epath.Path, error: OSError, flag: str = '--workdir') -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        f'{flag}={path} cannot be written ({reason}): name a folder on a disk that is '
        'writable and has space'
    )


def as_json(facts: Any) -> Any:
    """Returns facts as JSON gives them back: dataclasses as objects, tuples as lists."""
    return json.loads(json.dumps(facts, default=_plain))


def _as_stored(config: dict[str, Any], name: str) -> dict[str, Any]:
    return as_json({'version': VERSION, 'name': name, **config})


def _claim(workdir: epath.Path, wanted: dict[str, Any]) -> None:
    try:
        make_folder(workdir)
        hold(workdir)
        # Asked again, for now nobody else can write there.
        if _refuse_other_run(workdir, wanted) is None:
            write_atomically(workdir / CONFIG, json.dumps(wanted, indent=2, sort_keys=True) + '\n')
    except OSError as error:
        raise _unwritable(workdir, error) from error


def _refuse_other_run(workdir: epath.Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the configuration in a folder, None where it may be claimed."""
    if not workdir.exists():
        return None
    stored = stored_config(workdir)
    if stored is None:
        _refuse_foreign_files(workdir)
    else:
        _refuse_other_config(workdir, stored, wanted)
    return stored


def stored_config(workdir: epath.Path) -> dict[str, Any] | None:
    """Returns what a run's config.json holds, None where there is none.

    Raises:
        InputError: it is damaged.
    """
    try:
        config = read_json(workdir / CONFIG)
        if not isinstance(config, dict):
            raise ValueError('no JSON object')
        return config
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(
            f'{workdir / CONFIG} is damaged, {error}: restore it, or name another --workdir'
        ) from error


def _refuse_foreign_files(workdir: epath.Path) -> None:
    # Files of ours that a kill left behind are no one's work.
    names = [p.name for p in workdir.iterdir()]
    foreign = sorted(n for n in names if not n.startswith((_PROBE, f'.{CONFIG}.', LOCK)))
    if foreign:
        raise InputError(
            f'--workdir={workdir} holds {foreign[0]!r} but no {CONFIG}, so it is not a run of '
            'cdjax: name an empty or a new folder'
        )


def _refuse_other_config(
    workdir: epath.Path, stored: dict[str, Any], wanted: dict[str, Any]
) -> None:
    if stored.get('version') != VERSION:
        version = _show(stored.get('version', _MISSING))
        raise InputError(
            f'--workdir={workdir} holds a run of version {version} and this is version {VERSION}, '
            'whose results mean something else: name another --workdir'
        )
    if stored.get('name') != wanted['name']:
        raise InputError(
            f'--workdir={workdir} holds another run, of {stored.get("name")} and not of '
            f'{wanted["name"]}: name another --workdir'
        )
    if differing := _describe_differences(stored, wanted):
        raise InputError(
            f'--workdir={workdir} holds another run: {differing}; '
            'give the same values to continue it, or name another --workdir'
        )


def refuse_other_training(workdir: epath.Path, stored: Any, wanted: Any) -> None:
    """Raises InputError unless the checkpoints of a folder come of what is asked for.

    Args:
        workdir: of the training.
        stored: what decides its result, as `as_json` gives it.
        wanted: the same of the training that is asked for.
    """
    if differing := _describe_differences(stored, wanted):
        raise InputError(
            f'{workdir} holds another training: {differing}; give the same values to continue it, '
            'or another workdir'
        )


def _describe_differences(stored: Any, wanted: Any) -> str:
    """Returns in which values two JSON objects differ, the first three of them; '' if in none."""
    differences = _differences(stored, wanted)
    shown = '; '.join(
        f'{key} is {_show(old)} there and {_show(new)} here' for key, old, new in differences[:3]
    )
    return shown + (f' (and {len(differences) - 3} more)' if len(differences) > 3 else '')


_MISSING = object()


def _differences(stored: Any, wanted: Any, at: str = '') -> list[tuple[str, Any, Any]]:
    """Lists (key, stored, wanted) where two JSON values differ, keys joined by '.'.

    An option that is off, null, is what a folder of before there was that option does not have.
    """
    if isinstance(stored, dict) and isinstance(wanted, dict):
        found = []
        for key in sorted(stored.keys() | wanted.keys()):
            inner = f'{at}.{key}' if at else key
            found += _differences(stored.get(key, _MISSING), wanted.get(key, _MISSING), inner)
        return found
    off = {id(stored), id(wanted)} == {id(_MISSING), id(None)}
    return [] if off or stored == wanted else [(at, stored, wanted)]


def _show(value: Any) -> str:
    text = 'absent' if value is _MISSING else json.dumps(value)
    return text if len(text) <= _HEAD + _TAIL else f'{text[:_HEAD]}…{text[-_TAIL:]}'
