"""The process that compiles, done in this one: what it is sent and answers are the same bytes."""

import contextlib
import io
import subprocess
import traceback

from cdjax.planning import compiling


def compile_here(monkeypatch):
    """Lets `compile_for` start no process; the machine is this one, all of its devices."""

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
