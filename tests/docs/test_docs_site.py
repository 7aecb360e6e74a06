"""The site is built without a warning: every page in it, every link leads somewhere."""

import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# `python -m mkdocs`, which makes many objects, and hardly any that are in circles.
MKDOCS = 'import gc; gc.disable(); from mkdocs.__main__ import cli; cli()'
for package in ('mkdocstrings', 'mkdocs_jupyter'):
    pytest.importorskip(package, reason='the docs extra is not installed')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('docs')
    for name in ('docs', 'cdjax'):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns('*.safetensors', '*.pyc')
        )
    shutil.copy(ROOT / 'mkdocs.yml', folder)
    built = subprocess.run(
        [sys.executable, '-c', MKDOCS, 'build', '--strict'],
        cwd=folder,
        env={'NO_MKDOCS_2_WARNING': '1', 'PATH': ''},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / 'site'


def test_every_page_is_there_and_can_be_searched(site):
    pages = {path.stem for path in (ROOT / 'docs').glob('*.md')} - {'index'}
    assert pages <= {path.parent.name for path in site.glob('*/index.html')}
    notebooks = {path.stem for path in (ROOT / 'docs/notebooks').glob('*.ipynb')}
    assert notebooks == {path.parent.name for path in site.glob('notebooks/*/index.html')}
    index = (site / 'search' / 'search_index.json').read_text()
    assert 'any_size' in index
    assert 'linear_cka' in index


def test_the_reference_is_that_of_the_docstrings(site):
    page = (site / 'api' / 'losses' / 'index.html').read_text()
    assert 'Returns the linear CKA of two sets of features of the same rows.' in page
    pages = ''.join(path.read_text() for path in site.glob('api/*/index.html'))
    for path in (ROOT / 'cdjax').glob('*/__init__.py'):
        package = importlib.import_module(f'cdjax.{path.parent.name}')
        for name in getattr(package, '__all__', ()):
            if inspect.isroutine(thing := getattr(package, name)) or inspect.isclass(thing):
                homes = (package.__name__, thing.__module__)  # where a module has its name
                assert any(f'id="{home}.{name}"' in pages for home in homes), (homes, name)
