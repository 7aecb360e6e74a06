import dataclasses
import json

import toy_study as toy
from artefacts import disagreements

from cdjax.run.results import to_text
from experiments.benchmarks import edit_memory

PREFIX, QUESTION, ROWS = 60, 4, 16


def test_a_fill_is_not_made_for_each_problem():
    """The compiler counts the dense array where there is one, and no trace of it where not."""
    # Deep enough for a scan: of few layers, unrolled, the compiler sees through the shift.
    shape = dataclasses.replace(toy.teacher_config(), num_layers=6)
    found = edit_memory.run(shape, prefix=PREFIX, question=QUESTION, batch_size=ROWS)
    assert found['length'] == PREFIX + QUESTION
    for name, program in found['programs'].items():
        dense = 4 * shape.num_layers * program['rows'] * found['length'] * shape.intermediate_size
        assert program['dense_temporaries'] > dense, name
        assert program['dense_temporaries'] - program['temporaries'] > 0.5 * dense, name
    written = json.loads(to_text({'suite': 'edit_memory', **found}))
    assert disagreements('edit memory', written) == []
