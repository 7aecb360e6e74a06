"""What of the unseen problems can be known at all, where answers stand in tables."""

import numpy as np

from cdjax.data.tasks import TASKS
from cdjax.studies.inputs import Inputs


def knowable_part(inputs: Inputs, rows: np.ndarray) -> float | None:
    """Returns the part of some problems whose entry of a table is that of a problem of the share.

    A student can only guess the others, whatever it is aligned with. None where answers follow a
    rule, of which any problem may be known.

    Args:
        inputs: the task and the share.
        rows: int, the problems, such as those of unseen forms.
    """
    task = inputs.config.task
    entry = TASKS[task].entry if isinstance(task, str) and task in TASKS else None
    if entry is None:
        return None
    prefix, prompts = inputs.config.prefix, inputs.dataset.prompts
    entries = lambda rows: [entry(prompt.removeprefix(prefix)) for prompt in prompts[rows]]
    known = set(entries(inputs.split.share))
    return float(np.mean([one in known for one in entries(rows)]))
