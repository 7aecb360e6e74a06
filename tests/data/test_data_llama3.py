"""The facts about Llama 3's real tokenizer that the arithmetic tasks stand on."""

import json

import numpy as np
import pytest
from llama3_tokenizer import llama3_tokenizer

from cdjax.data import ArithmeticTask, build_arithmetic_tokenizer, read_task_file
from cdjax.data.encoding import encode_examples, single_tokens
from cdjax.errors import InputError

BOS = 128000


@pytest.fixture(scope='module')
def tokenizer():
    return llama3_tokenizer()


def test_every_integer_to_999_is_one_token(tokenizer):
    single = single_tokens(tokenizer, map(str, range(1100)))
    assert sorted(map(int, single)) == list(range(1000))
    assert len(set(single.values())) == 1000


def test_the_prompt_of_the_paper(tokenizer):
    encoding = encode_examples(tokenizer, ['24+80='], ['104'])
    assert encoding.tokens.tolist() == [[BOS, 1187, 10, 1490, 28]]
    assert encoding.lengths.tolist() == [5]
    assert tokenizer.decode(encoding.answers[0]) == '104'
    assert encoding.faults.tolist() == ['']


def test_a_tokenizer_that_adds_its_bos_gives_the_same(tokenizer, monkeypatch):
    from tokenizers.processors import TemplateProcessing

    assert tokenizer('24+80=')['input_ids'] == [1187, 10, 1490, 28]
    adding = TemplateProcessing(
        single='<|begin_of_text|> $A', special_tokens=[('<|begin_of_text|>', BOS)]
    )
    monkeypatch.setattr(tokenizer.backend_tokenizer, 'post_processor', adding)
    assert tokenizer('24+80=')['input_ids'] == [BOS, 1187, 10, 1490, 28]
    assert encode_examples(tokenizer, ['24+80='], ['104']).tokens.tolist() == [
        [BOS, 1187, 10, 1490, 28]
    ]


@pytest.mark.parametrize(
    ('prompt', 'answer', 'fault'),
    [
        ('500+500=', '1000', 'the answer is not one token'),
        ('3-15=', '-12', 'the answer is not one token'),
        ('24 + 80 =', ' 104', 'the answer is not one token'),
        ('The sum of 24 and 80 is ', '104', ''),
        # '=-' is one token of Llama 3's, so this prompt does not go on with '-'.
        ('3-15=', '-', 'the answer is another token after this prompt'),
        ('<|begin_of_text|>24+80=', '104', 'the prompt has a BOS of its own'),
    ],
)
def test_what_does_not_fit(tokenizer, prompt, answer, fault):
    assert encode_examples(tokenizer, [prompt], [answer]).faults.tolist() == [fault]


def test_the_default_task_is_the_same_under_both_tokenizers(tokenizer):
    theirs, ours = (ArithmeticTask().encode(t) for t in (tokenizer, build_arithmetic_tokenizer()))
    assert theirs.tokens.shape == ours.tokens.shape == (22880, 7)
    assert theirs.prompts.tolist() == ours.prompts.tolist()
    assert theirs.left_out == ours.left_out
    np.testing.assert_array_equal(theirs.forms, ours.forms)
    np.testing.assert_array_equal((theirs.tokens == BOS).sum(1), 1)
    written = tokenizer.batch_decode(theirs.tokens[:, 1:].tolist())
    assert written == theirs.prompts.tolist()


def test_negative_and_large_answers_are_left_out_and_counted(tokenizer):
    task = ArithmeticTask(('-', '*'), 2, 0, 60, answer_low=-60)
    dataset = task.encode(tokenizer)
    numbers = range(61)
    large = sum(a * b >= 1000 for a in numbers for b in numbers)
    negative = sum(a < b for a in numbers for b in numbers)
    assert dataset.left_out == {'the answer is not one token': large + negative}
    assert len(dataset) == 2 * 61 * 61 - large - negative
    assert (dataset.lengths == 5).all()


def test_an_operand_of_two_tokens_is_an_error(tokenizer):
    with pytest.raises(InputError, match=r'1000 is not one token.*low and high from 0 to 999'):
        ArithmeticTask(('+',), 2, 990, 1010).encode(tokenizer)


def test_nothing_fits(tokenizer):
    with pytest.raises(InputError, match=r"'900\+900='.*the answer is not one token"):
        ArithmeticTask(('+',), 2, 900, 999).encode(tokenizer)


def test_mib(tokenizer, tmp_path):
    """Lines with the keys of MIB's arithmetic files, of two templates."""
    pairs = [(24, 80), (80, 24), (31, 17), (52, 29)]
    lines = []
    for a, b in pairs:
        for template in ('The sum of {} and {} is ', '{} + {} = '):
            other = {'operand1': a + 3, 'operand2': b, 'label': a + 3 + b}
            other['prompt'] = template.format(a + 3, b)
            carry = {**other, 'operand1': a + 9, 'label': a + 9 + b}
            carry['prompt'] = template.format(a + 9, b)
            lines.append(
                {
                    'idx': 1,
                    'template': template,
                    'prompt': template.format(a, b),
                    'label': str(a + b),
                    'operator': '+',
                    'num_digit': 2,
                    'operand1': a,
                    'operand2': b,
                    'random_counterfactual': other,
                    'ones_carry_counterfactual': carry,
                }
            )
    path = tmp_path / 'mib.jsonl'
    path.write_text('\n'.join(map(json.dumps, lines)))
    dataset = read_task_file(path, tokenizer)
    assert len(dataset) == 8
    assert dataset.left_out == {}
    assert dataset.forms[0] == dataset.forms[1] == dataset.forms[2] == dataset.forms[3]
    assert len(set(dataset.forms)) == 3
    assert dataset.label_names['operators'] == ('+',)
    assert dataset.labels['carry'].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    others = dataset.counterfactual_tokens
    text = tokenizer.decode(others.tokens[0, others.counted[0]][1:])
    assert text == 'The sum of 27 and 80 is '
    assert tokenizer.decode([dataset.counterfactual_answers[0]]) == '107'
    assert others.starts[0] != others.starts[1]
    carried = read_task_file(path, tokenizer, counterfactual='ones_carry')
    assert tokenizer.decode([carried.counterfactual_answers[0]]) == '113'
    with pytest.raises(InputError, match=r"'tens_op1'; there are random, ones_carry"):
        read_task_file(path, tokenizer, counterfactual='tens_op1')
