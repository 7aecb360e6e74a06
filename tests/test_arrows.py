"""Who imports whom: packages stand on each other in one order, and nothing looks up.

`methods` stands above the trainings, by which some of them learn; its folder is within `circuits`.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up: each imports what stands before it.
ORDER = (
    'errors',
    'wording',
    'colours',
    'precision',
    'registry',
    'losses',
    'parallel',
    'run',
    'data',
    'models',
    'circuits',
    'inference',
    'evaluation',
    'distillation',
    'training',
    'planted',
    'circuits.methods',
    'planning',
    'studies',
    'report',
)
LAUNCHERS = sorted(
    file.stem
    for file in (ROOT / 'experiments').glob('*.py')
    if 'launch.run(main' in file.read_text()
)
FACES = ('circuits', 'data', 'distillation', 'evaluation', 'inference', 'losses', 'models')
FACES += ('parallel', 'planted', 'studies', 'training')


def package_of(module: str) -> str:
    """Returns the entry of `ORDER` that a module of cdjax belongs to."""
    inner = module.removeprefix('cdjax.')
    fitting = [name for name in ORDER if f'{inner}.'.startswith(f'{name}.')]
    assert fitting, f'{module} has no place in the order'
    return max(fitting, key=len)


def imports(file: Path) -> list[str]:
    """Returns the modules of cdjax that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    named = [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
    named += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    return [name for name in named if name.startswith('cdjax.')]


def test_no_arrow_points_upwards():
    upwards = []
    for file in sorted((ROOT / 'cdjax').rglob('*.py')):
        module = '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
        if module == 'cdjax':
            continue
        here = ORDER.index(package_of(module))
        for other in imports(file):
            if ORDER.index(package_of(other)) > here:
                upwards.append(f'{module} imports {other}')
    assert upwards == []


def test_nothing_is_imported_by_a_string():
    """But studies of the package, found in their folder, and plugins, which a flag names."""
    found = [
        str(file.relative_to(ROOT))
        for folder in ('cdjax', 'experiments')
        for file in sorted((ROOT / folder).rglob('*.py'))
        if 'import_module' in file.read_text() or '__import__' in file.read_text()
    ]
    assert found == ['cdjax/studies/extra/__init__.py', 'experiments/launch.py']


@pytest.mark.parametrize('name', FACES)
def test_a_face_shows_what_it_says(name):
    face = importlib.import_module(f'cdjax.{name}')
    assert face.__all__, name
    for public in face.__all__:
        shown = getattr(face, public)
        if callable(shown):
            assert shown.__doc__, f'{name}.{public} has no docstring'


@pytest.mark.parametrize('name', FACES)
def test_without_a_mesh_everything_that_users_call_is_on_one_device(name):
    face = importlib.import_module(f'cdjax.{name}')
    shown = {public: getattr(face, public) for public in face.__all__}
    for public, found in list(shown.items()):
        if inspect.isclass(found):
            shown |= {f'{public}.{n}': f for n, f in vars(found).items() if n[0] != '_'}
    functions = {n: f for n, f in shown.items() if inspect.isfunction(f) or inspect.isclass(f)}
    meshes = {n: inspect.signature(f).parameters.get('mesh') for n, f in functions.items()}
    assert [n for n, mesh in meshes.items() if mesh and mesh.default is not None] == []


def test_pages_and_notebooks_import_from_faces():
    pages = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
    pages += sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
    found = {
        (page.name, module)
        for page in pages
        for module in re.findall(r'from (cdjax[.\w]*) import', page.read_text())
    }
    assert len(found) > 10

    def is_face(module):
        folder = ROOT.joinpath(*module.split('.'))
        if not folder.is_dir():  # a module of its own, such as `cdjax.wording`
            return module.count('.') == 1
        return module == 'cdjax' or '__all__' in (folder / '__init__.py').read_text()

    assert [one for one in sorted(found) if not is_face(one[1])] == []


SLOW = {'torch', 'transformers', 'sklearn', 'scipy.stats', 'matplotlib', 'orbax', 'tensorboardX'}

# Each launcher in a child of its own, for most define flags of one name.
IMPORTS = """
import importlib, os, sys
import {faces}
import experiments.flags
print('package', *sys.modules, flush=True)
for name in {launchers}:
    if not os.fork():
        importlib.import_module('experiments.' + name)
        print(name, *sys.modules, flush=True)
        os._exit(0)
    os.wait()
"""


def test_what_takes_long_to_import_waits_until_it_is_needed():
    faces = ', '.join(f'cdjax.{face}' for face in FACES)
    lines = subprocess.run(
        [sys.executable, '-c', IMPORTS.format(faces=faces, launchers=LAUNCHERS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.splitlines()
    found = {name: set(modules) for name, *modules in map(str.split, lines)}
    assert found.keys() == {'package', *LAUNCHERS}
    assert 'cdjax.training.discovery' in found['package']
    assert 'cdjax.studies.pipeline' in found['pipeline']
    slow = {name: modules & SLOW for name, modules in found.items() if modules & SLOW}
    assert not slow
