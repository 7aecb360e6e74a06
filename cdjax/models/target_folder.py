"""A folder to be made, which carries its name only when it is whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from cdjax.errors import InputError
from cdjax.run.buckets import check_client, is_remote


def require_new(target: epath.Path) -> None:
    """Raises InputError unless a folder can be made: it is absent or empty, its parent writable."""
    check_client(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f'{target} exists and is not empty: name another folder, or remove it')
    require_writable(target)


def require_writable(target: epath.Path) -> None:
    """Raises InputError unless something can be made under this name."""
    check_client(target)
    if is_remote(target):
        return
    parent = _nearest(target)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        problem = 'may not be written to' if parent.is_dir() else 'is no folder'
        raise InputError(f'{target} cannot be made: {parent} {problem}; name another folder')


def require_file(target: epath.Path) -> None:
    """Raises InputError unless a file can be written under this name, or over one."""
    require_writable(target)
    if target.is_dir():
        raise InputError(f'{target} is a folder: name a file in it')


def require_room(target: epath.Path, needed: int, *, through_scratch: bool = False) -> None:
    """Raises InputError unless the disk that a folder will lie on has room for `needed` bytes.

    Args:
        target: the folder; buckets are taken to be endless.
        needed: bytes.
        through_scratch: whether files go to a bucket by way of the system's temporary folder.
    """
    if is_remote(target) and not through_scratch:
        return
    disk = epath.Path(tempfile.gettempdir()) if is_remote(target) else _nearest(target)
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise InputError(
            f'{target} needs {needed:,} bytes and the disk of {disk} has {free:,} left: '
            'free some space or name another folder'
        )


def partial_name(target: epath.Path) -> epath.Path:
    """Returns the hidden folder beside `target` that is written in its place, on all processes."""
    process = os.getpid()
    if jax.process_count() > 1:
        process = int(multihost_utils.broadcast_one_to_all(np.int32(process)))
    return target.with_name(f'.{target.name}.partial-{process}')


@contextmanager
def whole_folder(target: epath.Path, partial: epath.Path) -> Iterator[None]:
    """Makes the folder `partial`, which takes the name of `target` at the end.

    If the body raises, it is removed. One process of a run enters this.
    """
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield
        os.rename(partial, target)  # takes the place of an empty folder, as epath's does not
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def could_not_write(target: epath.Path, error: Exception) -> InputError:
    """Returns what a user is told when writing failed in the middle."""
    # TensorStore ends a long chain of contexts with the system's own words.
    reason = getattr(error, 'strerror', None) or str(error).strip().split(': ')[-1]
    problem = InputError(
        f'{target} could not be written ({reason}) and nothing was left under that name: free '
        'some space or name another folder'
    )
    problem.__cause__ = error
    return problem


def raise_on_all(problem: Exception | None, target: epath.Path) -> None:
    """Raises process 0's problem on all processes, so that none waits for another."""
    if jax.process_count() > 1:
        failed = multihost_utils.broadcast_one_to_all(np.int32(problem is not None))
        if failed and problem is None:
            problem = InputError(f'{target} could not be saved; process 0 says why')
    if problem is not None:
        raise problem


def _nearest(path: epath.Path) -> epath.Path:
    return next(folder for folder in epath.Path(os.path.abspath(path)).parents if folder.exists())
