"""The wheel and the sdist: whole, installed as pip does, and at work outside the checkout."""

import filecmp
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALL = '-m pip install --quiet --no-deps --no-index --no-build-isolation --no-compile --target'
PROGRAM = """
import importlib.metadata, sys
import cdjax
folder = sys.argv[1]
assert cdjax.__file__.startswith(folder), cdjax.__file__
assert importlib.metadata.version('cdjax') == sys.argv[2]
import jax, jax.numpy as jnp
from cdjax.models import load_huggingface
from cdjax.report.findings import say
from cdjax.report.write import environment
from cdjax.studies.inputs import EMBEDDED_TEACHER
model = load_huggingface(EMBEDDED_TEACHER)
tokens = jnp.array([[0, 12, 3, 15, 4, 9, 7]])
logits, _ = jax.jit(lambda model, tokens: model(tokens, logits_at=-1))(model, tokens)
assert logits.shape[0] == 1
environment().get_template('page.html'), environment().get_template('compare.html')
print(say('moved', {}))
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


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    """The folders that pip has installed each of the two into, without a network."""
    folder = tmp_path_factory.mktemp('installed')
    archives = {kind: next(built.glob(f'*.{kind}')) for kind in ('whl', 'tar.gz')}
    running = [
        subprocess.Popen(
            [sys.executable, *INSTALL.split(), str(folder / kind), str(archive)],
            cwd=folder, stderr=subprocess.PIPE, text=True,
        )
        for kind, archive in archives.items()
    ]  # fmt: skip
    for one in running:
        _, said = one.communicate()
        assert one.returncode == 0, said
    return {kind: folder / kind for kind in archives}


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
    assert f'\nVersion: {_version()}\n' in text
    assert f'\nversion: {_version()}\n' in (ROOT / 'CITATION.cff').read_text()
    assert f'## {_version()}' in (ROOT / 'CHANGELOG.md').read_text()


def test_both_install_the_library_and_no_launcher(installed):
    files = {
        kind: sorted(
            str(path.relative_to(folder))
            for path in folder.rglob('*')
            if path.is_file() and '.dist-info' not in str(path)
        )
        for kind, folder in installed.items()
    }
    assert files['whl'] == files['tar.gz']
    assert {name.partition('/')[0] for name in files['whl']} == {'cdjax'}
    same = filecmp.cmpfiles(installed['whl'], installed['tar.gz'], files['whl'], shallow=False)
    assert same[1:] == ([], [])
    told = re.sub(r'\s+', ' ', (ROOT / 'README.md').read_text())
    assert 'The wheel and the sdist hold the library; launchers run from a checkout' in told


def test_what_is_installed_works_outside_the_checkout(installed, tmp_path):
    folder = installed['tar.gz']
    settings = {'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, str(folder), _version()],
        cwd=tmp_path,
        env=os.environ | settings | {'PYTHONPATH': str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'No student was searched for circuits in this run.'


def _version() -> str:
    return re.search(r"version='([^']*)'", (ROOT / 'setup.py').read_text())[1]


def test_every_preprint_that_is_relied_on_is_cited():
    pages = [*(ROOT / 'cdjax').rglob('*.py'), *(ROOT / 'docs').glob('*.md'), ROOT / 'README.md']
    relied_on = set(re.findall(r'\b\d{4}\.\d{5}\b', ''.join(p.read_text() for p in pages)))
    cited = set(re.findall(r'arXiv:(\d{4}\.\d{5})', (ROOT / 'CITATION.cff').read_text()))
    # A learning rate of Llama 2, whose authors are some seventy.
    assert relied_on - {'2307.09288'} <= cited
