"""Results of stages on disk, so that a killed study continues behind the last one it finished."""

import json
import math
from collections.abc import Callable
from typing import Any

from etils import epath

from cdjax.errors import InputError
from cdjax.parallel.multihost import from_process_0
from cdjax.parallel.preemption import heed_preemption
from cdjax.run.folder import VERSION, write_atomically
from cdjax.run.json_file import parse_json


def to_text(content: dict[str, Any]) -> str:
    """Returns results as they are written: JSON with the version of their fields in front.

    Args:
        content: must survive JSON; numbers that are not finite (the loss of a training that
            diverged), for which JSON has none, become null.
    """
    return json.dumps({'version': VERSION, **_finite(content)}, indent=1, allow_nan=False) + '\n'


def from_text(text: str, path: epath.Path) -> dict[str, Any]:
    """Returns the results that `to_text` has written, without their version.

    Args:
        text: the content of a file.
        path: the file, for messages.

    Raises:
        InputError: the file is damaged, or its fields are those of another version.
    """
    try:
        content = parse_json(text)
        if not isinstance(content, dict):
            raise ValueError('no JSON object')
    except ValueError as error:
        raise InputError(
            f'{path} is damaged, {error}: remove it, and the same command computes it again'
        ) from error
    version = content.pop('version', None)
    if version != VERSION:
        raise InputError(
            f'{path} holds results of version {version} and this is version {VERSION}, whose '
            'fields mean something else: compute them again in another --workdir'
        )
    return content


def stored(
    path: epath.Path,
    compute: Callable[[], dict[str, Any]],
    *,
    holds: Callable[[dict[str, Any]], bool] = lambda content: True,
) -> dict[str, Any]:
    """Returns the JSON object at `path`; where there is none, computes and writes it first.

    Process 0 alone reads and writes, and hands to the others what it has read or written: a disk
    that lags behind on another host changes nothing.

    Args:
        path: a file that ends in `.json`.
        compute: makes the object, see `to_text`. All processes compute together.
        holds: whether what is there is what is asked for; computed anew where it is not.

    Raises:
        InputError: what is there is damaged, or of another version.
        Preempted: a SIGTERM came before there was something to compute.
    """
    text = from_process_0(lambda: path.read_text() if path.exists() else None)
    if text is None or not holds(from_text(text, path)):
        heed_preemption()
        # Through text and back, so that a first and a continued run see the same types.
        computed = to_text(compute())

        def write() -> str:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, computed)
            return computed

        text = from_process_0(write)
    return from_text(text, path)


def _finite(value: Any) -> Any:
    """Returns results with None in place of what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
