"""Where the time of a whole demo goes: the lines of its log say when a stage is done."""

import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.measure import ROOT

RECIPE = ('--flagfile=experiments/recipes/demo.flags',)
START, REST, WHOLE = 'start', 'what follows the last stage', 'all of it'
# As `cdjax.run.progress.LogLines` tells that a stage is done.
_DONE = re.compile(r'(.+?): [\d,]+ \w+ in ')


def run(workdir: Path, *, flags: Sequence[str] = RECIPE) -> dict[str, Any]:
    """Measures one run of the demo in a process of its own.

    Args:
        workdir: where it keeps what it makes.
        flags: of `experiments.pipeline`.

    Returns:
        One case with the wall seconds of each stage, which end where a line of the log says that it
        is done; what is too short for a line counts to the next. Of the whole CPU seconds too.
    """
    cpu = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    command = [sys.executable, '-m', 'experiments.pipeline', *flags, f'--workdir={workdir}/demo']
    began = ended = time.perf_counter()
    cpu_began, taken, said = cpu(), {}, []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            said.append(line)
            done = _DONE.match(line)
            if done or not taken:
                now = time.perf_counter()
                name = done[1] if done else START
                taken[name] = taken.get(name, 0.0) + now - ended
                ended = now
    if process.returncode:
        raise RuntimeError(f'the demo failed:\n{"".join(said)[-4000:]}')
    now = time.perf_counter()
    taken |= {REST: now - ended, WHOLE: now - began}
    seconds = {name: {'median': s, 'least': s} for name, s in taken.items()}
    seconds[WHOLE]['cpu'] = cpu() - cpu_began
    return {'cases': {'demo': {'seconds': seconds}}}
