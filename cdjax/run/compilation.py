"""The cache of compiled programs: a run that continues does not compile again."""

import jax
from etils import epath

from cdjax.errors import InputError
from cdjax.run.buckets import check_client


def enable_compilation_cache(directory: epath.PathLike) -> None:
    """Keeps compiled programs in a folder, to be found by the next start.

    Args:
        directory: where; local or `gs://`, made if need be. Only what took a second or more to
            compile is kept.

    Raises:
        InputError: the folder cannot be made, or lies in a bucket that cannot be reached.
    """
    check_client(directory)
    path = epath.Path(directory).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f'--compilation_cache={path} cannot be made ({error.strerror}): name a folder that can '
            'be written, or none by --compilation_cache='
        ) from error
    jax.config.update('jax_compilation_cache_dir', str(path))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)
