"""The wheel and the sdist: whole, and at work outside the checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
sys.path = [path for path in sys.path if path != {root!r}]
sys.path.insert(0, {folder!r})
import cdjax
assert cdjax.__file__.startswith({folder!r}), cdjax.__file__
import jax.numpy as jnp
from cdjax.models import load_huggingface
from cdjax.report.findings import say
from cdjax.report.write import environment
from cdjax.studies.inputs import EMBEDDED_TEACHER
model = load_huggingface(EMBEDDED_TEACHER)
logits, _ = model(jnp.array([[0, 12, 3, 15, 4, 9, 7]]), logits_at=-1)
assert logits.shape[0] == 1
environment().get_template('page.html'), environment().get_template('compare.html')
print(say('moved', {{}}))
"""


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """An sdist of the files that git knows, and a wheel made from it alone."""
    folder = tmp_path_factory.mktemp('built')
    build = [sys.executable, '-c', 'import setuptools.build_meta as b, sys; {}']
    for call in ('b.build_sdist(sys.argv[1])', 'b.build_wheel(sys.argv[1])'):
        source = ROOT
        if 'wheel' in call:
            with tarfile.open(next(folder.glob('*.tar.gz'))) as archive:
                archive.extractall(folder / 'unpacked', filter='data')
            (source,) = (folder / 'unpacked').iterdir()
        command = [*build[:2], build[2].format(call), str(folder)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_sdist_holds_what_it_is_built_from(built):
    with tarfile.open(next(built.glob('*.tar.gz'))) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    needed = {'setup.py', 'requirements.txt', 'README.md', 'LICENSE', 'pyproject.toml'}
    assert needed <= names
    assert not any(name.startswith(('tests/', 'runs/')) for name in names)


def test_the_wheel_holds_every_file_of_the_package(built):
    with zipfile.ZipFile(next(built.glob('*.whl'))) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith('METADATA'))
        text = archive.read(metadata).decode()
    tracked = subprocess.run(
        ['git', 'ls-files', 'cdjax'], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert set(tracked) <= names
    version = re.search(r"version='([^']*)'", (ROOT / 'setup.py').read_text())[1]
    assert f'\nVersion: {version}\n' in text
    assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    assert f'## {version}' in (ROOT / 'CHANGELOG.md').read_text()


def test_the_wheel_works_outside_the_checkout(built, tmp_path):
    folder = tmp_path / 'site'
    with zipfile.ZipFile(next(built.glob('*.whl'))) as archive:
        archive.extractall(folder)
    program = PROGRAM.format(root=str(ROOT), folder=str(folder))
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'No student was searched for circuits in this run.'
