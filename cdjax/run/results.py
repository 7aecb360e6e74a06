"""Results of stages on disk, so that a killed study continues behind the last one it finished."""

import json
import math
from collections.abc import Callable
from typing import Any

from etils import epath

from cdjax.parallel.multihost import from_process_0
from cdjax.parallel.preemption import heed_preemption
from cdjax.run.folder import write_atomically


def stored(path: epath.Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the JSON object at `path`; where there is none, computes and writes it first.

    Process 0 alone reads and writes, and hands to the others what it has read or written: a disk
    that lags behind on another host changes nothing.

    Args:
        path: a file that ends in `.json`.
        compute: makes the object; must survive JSON, where numbers that are not finite (the loss
            of a training that diverged) become null. All processes compute together.

    Raises:
        Preempted: a SIGTERM came before there was something to compute.
    """
    text = from_process_0(lambda: path.read_text() if path.exists() else None)
    if text is None:
        heed_preemption()
        # Through text and back, so that a first and a continued run see the same types.
        computed = json.dumps(_finite(compute()), indent=1, allow_nan=False) + '\n'

        def write() -> str:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, computed)
            return computed

        text = from_process_0(write)
    return json.loads(text)


def _finite(value: Any) -> Any:
    """Returns results with None in place of what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
