"""A cloud that exists only on the PATH: no test here can reach a real host."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from fake_gcloud import FakeGcloud

ROOT = Path(__file__).parents[2]
TOOLS = (
    'bash cat cp cut date dirname env git grep gzip hostname mkdir mkfifo mktemp nohup rm sed '
    'setsid sha256sum sleep tail tar tee'
)


def _heed_signals() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Cloud:
    """A folder, and a PATH on which the fake gcloud is the only one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / 'bin'
        self.bin.mkdir()
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.gcloud = FakeGcloud(folder, self.environment)
        self.stub('gcloud', self.gcloud.command, interpreter=shutil.which('bash'))
        self.set = self.gcloud.set

    def stub(self, name: str, script: str, *, folder=None, interpreter='/usr/bin/env bash'):
        file = (folder or self.bin) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!{interpreter}\n{script}\n')
        file.chmod(0o755)

    @property
    def current(self) -> dict | None:
        return self.gcloud.world.get('current')

    @property
    def calls(self) -> list[list[str]]:
        return [call[2:] for call in self.gcloud.calls]

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
    cloud = Cloud(tmp_path)
    with cloud.gcloud as gcloud:
        threading.Thread(target=gcloud.serve_forever, args=[0.01]).start()
        yield cloud
        gcloud.over.set()
        gcloud.shutdown()
