"""Lower bounds of what a step keeps, against a count by hand."""

from cdjax.models import LlamaConfig
from cdjax.training.memory import least_training_bytes


def test_of_a_patched_student_two_passes_are_kept_at_once():
    config = LlamaConfig(10, 4, 6, 2, 2, 1, 2)
    rows, length, logits = 3, 5, 10
    bound = lambda **how: least_training_bytes(config, rows, length, dtype='bfloat16', **how)
    # In bfloat16 the input of each of two blocks, and both arguments of its SwiGLU; float32 logits
    # of the answer, those of the patched pass alone.
    blocks = 2 * length * 2 * (4 + 2 * 6)
    assert bound(remat='none') == rows * (blocks + 4 * logits)
    assert bound(remat='none', patched=True) == rows * (2 * blocks + 4 * logits)
    inputs = 2 * length * 2 * 4
    assert bound(remat='full', patched=True) == rows * (2 * inputs + 4 * logits)
