"""The notebooks run from top to bottom, and are stored with what they showed."""

import json
from pathlib import Path

import pytest
from forks import ROOT, Fork

NOTEBOOKS = sorted((ROOT / 'docs/notebooks').glob('*.ipynb'))


def code(path: Path) -> list[dict]:
    """Returns a notebook's cells of code."""
    return [cell for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code']


def source(cell: dict) -> str:
    return ''.join(cell['source'])


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    """As one program: its cells are plain Python, and asserts are in them."""
    program, said = tmp_path / f'{path.stem}.py', tmp_path / 'said'
    program.write_text('\n\n'.join(map(source, code(path))))
    assert Fork(str(program), [], out=said, err=said).wait(300) == 0, said.read_text()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_with_its_output(path):
    cells = code(path)
    for cell in cells:
        kinds = {output['output_type'] for output in cell['outputs']}
        assert 'error' not in kinds
        assert 'print(' not in source(cell) or 'stream' in kinds, source(cell)
        assert 'plt.' not in source(cell) or 'display_data' in kinds, source(cell)
    assert [cell['execution_count'] for cell in cells] == [*range(1, len(cells) + 1)]
    assert len(NOTEBOOKS) == 2
