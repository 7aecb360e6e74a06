from types import SimpleNamespace

import numpy as np

from cdjax.studies.knowable import knowable_part

# Table of a for +, of b for -.
PROMPTS = np.array(['1+2=', '3-4=', '1+9=', '9-4=', '3+4=', '3-5='])


def inputs(task, prefix=''):
    return SimpleNamespace(
        config=SimpleNamespace(task=task, prefix=prefix),
        dataset=SimpleNamespace(prompts=np.array([prefix + prompt for prompt in PROMPTS])),
        split=SimpleNamespace(share=np.array([0, 1])),
    )


def test_what_stands_in_a_table_that_the_share_shows_can_be_known():
    assert knowable_part(inputs('lookup'), np.arange(2, 6)) == 0.5
    assert knowable_part(inputs('lookup'), np.array([2])) == 1
    assert knowable_part(inputs('lookup', '5+6=8\n'), np.arange(2, 6)) == 0.5
    assert knowable_part(inputs('two_operands'), np.array([2])) is None
    assert knowable_part(inputs('my_problems.jsonl'), np.array([2])) is None
