"""Reading JSON that others may have written, edited or cut short."""

import json
from typing import Any

from etils import epath


def read_json(path: epath.PathLike) -> Any:
    """Returns the content of a JSON file.

    Raises:
        OSError: there is none, or the disk fails.
        ValueError: it may not be read, or is no JSON: whatever is wrong with it.
    """
    try:
        return parse_json(epath.Path(path).read_bytes())
    except (IsADirectoryError, PermissionError) as error:
        raise ValueError(error.strerror) from error


def parse_json(content: bytes | str) -> Any:
    """Returns what a JSON text holds.

    Raises:
        ValueError: it is no JSON; nested too deeply, or not UTF-8, included.
    """
    try:
        return json.loads(content.decode('utf-8-sig') if isinstance(content, bytes) else content)
    except UnicodeDecodeError as error:
        raise ValueError(f'byte {error.start + 1} is no UTF-8') from error
    except json.JSONDecodeError as error:
        place = f'line {error.lineno}, ' if error.lineno > 1 else ''
        raise ValueError(f'no JSON ({error.msg} at {place}column {error.colno})') from error
    except RecursionError as error:
        raise ValueError('no JSON (nested too deeply)') from error
