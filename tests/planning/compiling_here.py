"""Compiling at less cost: in this process, or with less effort of the real compiler of a TPU."""

import contextlib
import io
import subprocess
import traceback

from cdjax.planning import compiling

# Most of its time is writing and scheduling code, behind all that tests ask: what it makes of a
# program, and the memory of that. In less fast memory the same loops are less code; temporaries of
# the distillation of 8B to 1B are 1.93675 GiB for 1.93684.
TPU_QUICKLY = {
    'JAX_EXEC_TIME_OPTIMIZATION_EFFORT': '-1.0',
    'LIBTPU_INIT_ARGS': '--xla_tpu_scoped_vmem_limit_kib=2048',
}


def compile_here(monkeypatch):
    """Lets `compile_for` start no process; the machine is this one, all of its devices.

    What this one is sent and answers are the same bytes.
    """

    def run(command, *, input, **_):
        sent, answer, code, said = io.TextIOWrapper(io.BytesIO(input)), io.StringIO(), 0, ''
        with monkeypatch.context() as patch, contextlib.redirect_stdout(answer):
            patch.setattr('sys.stdin', sent)
            try:
                compiling.main()
            except Exception:
                code, said = 1, traceback.format_exc()
        return subprocess.CompletedProcess(command, code, answer.getvalue().encode(), said.encode())

    monkeypatch.setattr(compiling.subprocess, 'run', run)
