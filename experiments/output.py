"""The JSON file that a launcher writes its result to, besides what it prints."""

from typing import Any

from etils import epath

from cdjax.errors import InputError
from cdjax.models.target_folder import require_file
from cdjax.run.folder import write_atomically
from cdjax.run.json_file import read_json
from cdjax.run.results import to_text


def check_output(path: epath.PathLike, field: str, what: str) -> None:
    """Raises InputError unless a result can be written, in the place of one of its kind at most.

    Args:
        path: the file to be written.
        field: what every result of this kind has at its top, and no other.
        what: its kind, for the message.
    """
    path = epath.Path(path)
    require_file(path)
    if not path.exists():
        return
    try:
        content = read_json(path)
    except ValueError:
        content = None
    if not isinstance(content, dict) or field not in content:
        raise InputError(f'output={path} holds something else than {what}: name another file')


def write_output(path: epath.PathLike, content: dict[str, Any]) -> None:
    """Writes a result, see `cdjax.run.results.to_text`, and the folders above it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_text(content))
