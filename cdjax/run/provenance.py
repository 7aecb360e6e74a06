"""How a run was started: command, versions and machine, once for each time that it was.

`provenance.json` decides nothing and is compared with nothing: a run that continues on another
machine, or with another version, is the same run, and says so.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
from etils import epath

from cdjax.run.folder import VERSION, write_atomically
from cdjax.run.json_file import parse_json

PROVENANCE = 'provenance.json'
PACKAGES = ('cdjax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'transformers', 'matplotlib')


def record_start(workdir: epath.PathLike) -> None:
    """Adds this process to the provenance of a run, on process 0; all start together."""
    if jax.process_index() == 0:
        starts = read_provenance(workdir).get('starts', [])
        content = {'version': VERSION, 'starts': [*starts, facts()]}
        write_atomically(epath.Path(workdir) / PROVENANCE, json.dumps(content, indent=1) + '\n')


def read_provenance(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the provenance of a run, empty where there is none or it cannot be read."""
    path = epath.Path(workdir) / PROVENANCE
    try:
        return parse_json(path.read_text()) if path.exists() else {}
    except ValueError:
        return {}


def facts() -> dict[str, Any]:
    """Returns how this process was started, see docs/artefacts.md."""
    devices = jax.devices()
    return {
        'time': round(time.time(), 3),
        'command': shlex.join(['python', *sys.orig_argv[1:]]),
        'commit': _commit(),
        'python': platform.python_version(),
        'packages': {name: _version(name) for name in PACKAGES},
        'system': platform.platform(),
        'processor': _processor(),
        'cores': os.cpu_count() or 0,
        'devices': len(devices),
        'device_kind': devices[0].device_kind,
        'processes': jax.process_count(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Returns the commit of the checkout that this package lies in, with + where it was changed."""
    git = ['git', '-C', str(Path(__file__).parent)]
    try:
        ask = lambda *words: subprocess.run(
            [*git, *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        # A package that is installed within somebody's repository is none of its files.
        ask('ls-files', '--error-unmatch', Path(__file__).name)
        return ask('rev-parse', 'HEAD') + ('+' if ask('status', '--porcelain', '-uno') else '')
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return named[0] if named else platform.processor() or platform.machine()
