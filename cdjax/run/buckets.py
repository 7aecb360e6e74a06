"""Folders in an object store (`gs://`): what only works on a disk is done in a local copy.

Reading and writing whole files goes through `etils.epath`, arrays through Orbax; both know buckets.
Libraries that take a folder's name (safetensors, tokenizers, the profiler) do not.
"""

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from cdjax.errors import InputError


def is_remote(path: epath.PathLike) -> bool:
    """Says whether a path lies in an object store, where files cannot be appended to."""
    return '://' in str(path)


def check_client(path: epath.PathLike) -> None:
    """Raises InputError for a path in a bucket that the installed packages cannot reach."""
    scheme, _, name = str(path).partition('://')
    if is_remote(path) and (scheme != 'gs' or not name.partition('/')[0]):
        raise InputError(f'{path}: name a local folder, or gs://BUCKET/FOLDER')
    if is_remote(path) and importlib.util.find_spec('gcsfs') is None:
        raise InputError(
            f'{path} lies in a bucket, which needs the package gcsfs: pip install gcsfs (the '
            'extras tpu and gcs bring it)'
        )


@contextlib.contextmanager
def local_folder(folder: epath.PathLike) -> Iterator[Path]:
    """Yields a folder on this machine's disk: itself, or a copy of one in a bucket.

    The copy holds the files of the folder, without those of folders within, and is removed after.

    Raises:
        InputError: there is no such folder in the bucket.
    """
    if not is_remote(folder):
        yield Path(folder)
        return
    check_client(folder)
    source = epath.Path(folder)
    if not source.is_dir():
        raise InputError(f'{source} is no folder in the bucket')
    with tempfile.TemporaryDirectory(prefix='cdjax-') as scratch:
        for file in source.iterdir():
            if not file.is_dir():
                file.copy(epath.Path(scratch) / file.name)
        yield Path(scratch)


@contextlib.contextmanager
def outgoing_folder(folder: epath.PathLike, *, last: str | None = None) -> Iterator[Path]:
    """Yields a folder on disk to write into: itself, or one that is copied to a bucket at the end.

    Args:
        folder: made if need be.
        last: name of the file that is copied last, without which a reader takes nothing for whole.
    """
    target = epath.Path(folder)
    if not is_remote(folder):
        target.mkdir(parents=True, exist_ok=True)
        yield Path(target)
        return
    check_client(folder)
    with tempfile.TemporaryDirectory(prefix='cdjax-') as scratch:
        yield Path(scratch)
        files = [file for file in Path(scratch).rglob('*') if file.is_file()]
        for file in sorted(files, key=lambda file: (file.name == last, file)):
            there = target / file.relative_to(scratch).as_posix()
            there.parent.mkdir(parents=True, exist_ok=True)
            epath.Path(file).copy(there, overwrite=True)
