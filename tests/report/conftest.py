import pytest


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves panels empty, which are most of the work, where a test reads what stands beside."""
    empty = '<svg viewBox="0 0 1 1" role="img"></svg>'
    monkeypatch.setattr('cdjax.report.chart.render', lambda *_: (empty, empty))
