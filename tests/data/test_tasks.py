import numpy as np
import pytest

from cdjax.data import (
    TASKS,
    ArithmeticTask,
    Example,
    Task,
    build_arithmetic_tokenizer,
    encode_task,
    split,
)
from cdjax.data.tasks import modular_addition
from cdjax.errors import InputError


@pytest.fixture(scope='module')
def tokenizer():
    return build_arithmetic_tokenizer(20)


def test_modular_addition(tokenizer, monkeypatch):
    monkeypatch.setattr(modular_addition, 'PRIME', 7)  # 113 have more numbers than the tokenizer
    dataset = encode_task('mod_113', tokenizer)
    assert len(dataset) == 49
    assert not dataset.left_out
    a, b = (np.array([int(p[i]) for p in dataset.prompts]) for i in (0, 2))
    assert [int(tokenizer.decode(t)) for t in dataset.answers] == ((a + b) % 7).tolist()
    # 3+4= and 4+3= are one problem.
    assert len(np.unique(dataset.forms)) == 28
    assert (dataset.forms[(a == 3) & (b == 4)] == dataset.forms[(a == 4) & (b == 3)]).all()
    parts = split(dataset, share=0.5, test=0.25, seed=0)
    assert not np.intersect1d(dataset.forms[parts.train], dataset.forms[parts.test]).size


def test_two_operands_are_those_of_the_arithmetic_with_two():
    tokenizer = build_arithmetic_tokenizer(40)
    dataset = encode_task('two_operands', tokenizer)
    same = ArithmeticTask(('+', '-'), operands=2, low=0, high=19).encode(tokenizer)
    assert dict(zip(dataset.prompts, dataset.answers, strict=True)) == dict(
        zip(same.prompts, same.answers, strict=True)
    )
    assert len(np.unique(dataset.forms)) == len(np.unique(same.forms))


def test_a_task_of_words_has_forms_by_their_text(tokenizer):
    examples = [Example('1+', '2'), Example('1-', '3'), Example('1*', '99')]
    TASKS.add(Task('words', 'no arithmetic', lambda: examples))
    try:
        dataset = encode_task('words', tokenizer, prompt_prefix='5=')
    finally:
        TASKS.remove('words')
    assert dataset.prompts.tolist() == ['5=1+', '5=1-']
    assert len(np.unique(dataset.forms)) == 2
    assert sum(dataset.left_out.values()) == 1


def test_a_name_that_is_no_task_is_a_file(tokenizer):
    with pytest.raises(InputError, match='task file mod_8 cannot be read'):
        encode_task('mod_8', tokenizer)
