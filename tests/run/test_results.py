import json

import numpy as np
import pytest
from etils import epath

from cdjax.errors import InputError
from cdjax.run.folder import VERSION
from cdjax.run.results import stored


def test_a_result_is_computed_once_and_looks_the_same_ever_after(tmp_path):
    path = epath.Path(tmp_path) / 'results' / 'circuits.json'
    calls = []

    def compute():
        calls.append(1)
        return {'accuracy': 0.1 + 0.2, 'pair': (1, 2), 'by_seed': {0: 'a'}}

    first = stored(path, compute)
    assert first == {'accuracy': 0.1 + 0.2, 'pair': [1, 2], 'by_seed': {'0': 'a'}}
    assert stored(path, compute) == first
    assert len(calls) == 1
    assert json.loads(path.read_text()) == {'version': VERSION, **first}


def test_what_json_has_no_number_for_becomes_null(tmp_path):
    path = epath.Path(tmp_path) / 'arm.json'
    result = stored(path, lambda: {'losses': [[10, float('nan'), float('inf')], (1.5, None)]})
    assert result == {'losses': [[10, None, None], [1.5, None]]}
    assert 'NaN' not in path.read_text()


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    path = epath.Path(tmp_path) / 'arm.json'
    with pytest.raises(ZeroDivisionError):
        stored(path, lambda: {'x': 1 / 0})
    with pytest.raises(TypeError):
        stored(path, lambda: {'x': np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"version": 1, "acc', 'is damaged, no JSON .*: remove it, and the same command computes'),
        ('[1]', 'is damaged, no JSON object'),
        ('{"accuracy": 0.5}', f'holds results of version None and this is version {VERSION}'),
        ('{"version": 0}', f'holds results of version 0 and this is version {VERSION}'),
    ],
)
def test_what_is_no_result_of_this_version_is_not_taken_for_one(tmp_path, content, message):
    path = epath.Path(tmp_path) / 'arm.json'
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        stored(path, lambda: {'accuracy': 0.5})
    assert path.read_text() == content
