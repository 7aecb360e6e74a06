"""A cloud that exists only on the PATH: no test here can reach a real host."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    'bash cat cp cut date dirname env git grep gzip hostname mkdir mkfifo mktemp nohup rm sed '
    'setsid sha256sum sleep tail tar tee'
)


def _heed_signals() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Cloud:
    """A folder with the fake gcloud's world, and a PATH on which it is the only gcloud."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / 'bin'
        self.bin.mkdir()
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        fake = (Path(__file__).parent / 'fake_gcloud.py').read_text()
        self.stub('gcloud', fake, interpreter=f'{sys.executable} -IS')
        self.set(lives=[])

    def stub(self, name: str, script: str, *, folder=None, interpreter='/usr/bin/env bash'):
        file = (folder or self.bin) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!{interpreter}\n{script}\n')
        file.chmod(0o755)

    def set(self, **world):
        (self.folder / 'world.json').write_text(json.dumps(world))

    @property
    def current(self) -> dict | None:
        return json.loads((self.folder / 'world.json').read_text()).get('current')

    @property
    def calls(self) -> list[list[str]]:
        log = self.folder / 'calls.jsonl'
        lines = log.read_text().splitlines() if log.exists() else []
        return [json.loads(line)[2:] for line in lines]

    def verbs(self) -> list[str]:
        """The calls that change something, in short."""
        words = []
        for _, verb, *rest in self.calls:
            remote = next((a for a in rest if a.startswith('--command=')), '').split()
            words += [remote[2] if remote else verb] if verb != 'describe' else []
        return words

    @property
    def environment(self) -> dict[str, str]:
        home = self.folder / 'home'
        home.mkdir(exist_ok=True)
        return {
            'PATH': str(self.bin),
            'HOME': str(home),
            'TMPDIR': str(self.folder),
            'FAKE_CLOUD': str(self.folder),
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            ['bash', str(ROOT / 'experiments/cloud/tpu.sh'), *arguments],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            # A test run that a script has put into the background ignores SIGINT, one of nohup
            # SIGHUP, and bash cannot trap a signal that it inherits as ignored.
            preexec_fn=_heed_signals,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def cloud(tmp_path):
    assert os.access(ROOT / 'experiments/cloud/tpu.sh', os.X_OK)
    return Cloud(tmp_path)
