"""The notebooks run from top to bottom, and are stored with what they showed."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat', reason='the test extra is not installed')
nbclient = pytest.importorskip('nbclient', reason='the test extra is not installed')

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / 'docs/notebooks').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
    notebook = nbformat.read(path, as_version=4)
    where = {'metadata': {'path': str(ROOT)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()  # asserts are in it


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_with_its_output(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']
    for cell in cells:
        kinds = {output.output_type for output in cell.outputs}
        assert 'error' not in kinds
        assert 'print(' not in cell.source or 'stream' in kinds, cell.source
        assert 'plt.' not in cell.source or 'display_data' in kinds, cell.source
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert len(NOTEBOOKS) == 2
