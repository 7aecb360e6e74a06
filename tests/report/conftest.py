import functools

import pytest

from cdjax.report import maps, write

OF_A_PAGE = {
    write: (
        *('neuron_cards', 'method_curves', 'recovery_dots', 'selectivity_front'),
        *('discovery_curves', 'arm_curves', 'arm_dots', 'problem_curves', 'cost_dots'),
        *('mechanism_dots', '_study'),
    ),
    maps: ('layer_map', 'selectivity_maps', 'similarity_maps'),
}


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves panels empty, which are most of the work, where a test reads what stands beside."""
    empty = '<svg viewBox="0 0 1 1" role="img"></svg>'
    monkeypatch.setattr('cdjax.report.chart.render', lambda *_: (empty, empty))


@pytest.fixture(scope='module')
def drawn_once():
    """Draws figures of the same numbers once, which several pages of a module show."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in OF_A_PAGE.items():
            for name in names:
                patch.setattr(module, name, _once(getattr(module, name)))
        yield


def _once(draw):
    drawn = {}

    @functools.wraps(draw)
    def again(*args, **kwargs):
        shown = repr((args, kwargs))
        if shown not in drawn:
            drawn[shown] = draw(*args, **kwargs)
        return drawn[shown]

    return again
