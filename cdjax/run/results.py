"""Results of stages on disk, so that a killed study continues behind the last one it finished."""

import json
import math
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import write_atomically


def stored(path: epath.Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the JSON object at `path`; where there is none, computes and writes it first.

    Args:
        path: a file that ends in `.json`.
        compute: makes the object; must survive JSON, where numbers that are not finite (the loss
            of a training that diverged) become null. All processes compute together, process 0
            decides whether that is needed, and writes.
    """
    if as_process_0_sees(path.exists):
        return json.loads(path.read_text())
    # Through text and back, so that a first and a continued run see the same types.
    text = json.dumps(_finite(compute()), indent=1, allow_nan=False)
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text + '\n')
    return json.loads(text)


def _finite(value: Any) -> Any:
    """Returns results with None in place of what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
