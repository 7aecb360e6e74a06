import json

import pytest
from artefacts import disagreements

from cdjax.models import LlamaConfig
from cdjax.run.results import to_text
from experiments.benchmarks.checkpoint_memory import measure

pytestmark = pytest.mark.optimised


def test_neither_loading_nor_saving_holds_the_model_twice(tmp_path):
    """A small model of the benchmark; buffers of fixed size weigh more here than at 3B shapes."""
    config = LlamaConfig(16000, 768, 3072, 12, 12, 4, 64, tie_embeddings=True)
    found = measure(tmp_path, config, devices=8)
    assert found['bytes'] > 200e6
    for stage in ('load', 'save'):
        taken = found[f'{stage}_peak_bytes'] - found['before_bytes']
        assert found['bytes'] < taken < 1.5 * found['bytes']
        assert found[f'{stage}_ratio'] == found[f'{stage}_peak_bytes'] / found['bytes']
    assert list(tmp_path.iterdir()) == []
    written = json.loads(to_text({'suite': 'checkpoint_memory', **found}))
    assert disagreements('benchmark', written) == []
