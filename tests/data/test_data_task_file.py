import json

import numpy as np
import pytest

from cdjax.data import build_arithmetic_tokenizer, read_task_file
from cdjax.data.task_file import read_examples
from cdjax.errors import InputError


@pytest.fixture(scope='module')
def tokenizer():
    return build_arithmetic_tokenizer()


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines):
        path = tmp_path / 'task.jsonl'
        path.write_text(
            ''.join((line if isinstance(line, str) else json.dumps(line)) + '\n' for line in lines)
        )
        return path

    return write_lines


def row_text(tokenizer, tokens, row):
    """The text of a row without BOS."""
    return tokenizer.decode(tokens.tokens[row, tokens.counted[row]][1:])


def test_prompts_of_unequal_length(write, tokenizer):
    path = write(
        {'prompt': '2+3=', 'answer': 5},
        {'prompt': '3+2=', 'label': '5'},
        '',
        {'prompt': '9-3+4=', 'answer': '10', 'comment': 'not read'},
        {'prompt': '4+3=', 'answer': 7},
        {'prompt': '4+9-3=', 'answer': 10},
        {'prompt': '5-3+4=', 'answer': 6},
        # Left out, and so no hindrance to the labels of the others.
        {'prompt': 'What?', 'answer': 'none'},
    )
    dataset = read_task_file(path, tokenizer)
    assert dataset.tokens.shape == (6, 7)
    assert dataset.lengths.tolist() == [7] * 6, 'columns, which end where answers begin'
    assert dataset.tokens.starts.tolist() == [2, 2, 0, 2, 0, 0]
    for row in range(6):
        assert row_text(tokenizer, dataset.tokens, row) == dataset.prompts[row]
        assert row_text(tokenizer, dataset.counterfactual_tokens, row) in dataset.prompts
    assert (dataset.answers != dataset.counterfactual_answers).all()
    forms = dataset.forms
    assert forms[0] == forms[1] != forms[3]
    assert forms[2] == forms[4] != forms[5]
    assert len(set(forms)) == 4
    labels = {name: dataset.label_names[name] for name in dataset.labels}
    assert dataset.left_out == {'the prompt has characters that the tokenizer cannot write': 1}
    assert labels['operators'] == ('+', '+ −', '− +')
    assert labels['answer'] == ('5', '6', '7', '10')
    assert dataset.labels['magnitude'].tolist() == [0, 0, 1, 0, 1, 0]


def test_given_counterfactuals(write, tokenizer):
    path = write(
        {'prompt': '2+3=', 'answer': 5, 'counterfactual': {'prompt': '2+7=', 'label': 9}},
        {'prompt': '4+3=', 'answer': 7, 'counterfactual': '8+3='},
        {'prompt': '4+4=', 'answer': 8, 'counterfactual': '2+3='},
        {'prompt': '6+6=', 'answer': 12, 'counterfactual': None},
        # What follows does not fit, each in its own way.
        {'prompt': '6+5=', 'answer': 11, 'counterfactual': '6+5+1='},
        {'prompt': '7+5=', 'answer': 12, 'counterfactual': '8+4='},
        {'prompt': '9+4=', 'answer': 13, 'counterfactual': '99+4='},
        {'prompt': '99+5=', 'answer': 104, 'counterfactual': '98+1='},
    )
    dataset = read_task_file(path, tokenizer, prompt_prefix='1+1=2 ')
    assert tokenizer.decode(dataset.counterfactual_tokens.prefix[1:]) == '1+1=2 '
    assert dataset.prefix == dataset.counterfactual_tokens.prefix
    others = [tokenizer.decode(row) for row in dataset.counterfactual_tokens.tokens]
    assert others[:3] == ['2+7=', '8+3=', '2+3=']
    assert f'1+1=2 {others[3]}' in dataset.prompts[:3]
    assert [tokenizer.decode([a]) for a in dataset.counterfactual_answers[:3]] == ['9', '11', '5']
    assert dataset.left_out == {
        'its counterfactual has another length': 1,
        'its counterfactual has the same answer': 1,
        'its counterfactual: the answer is not one token': 1,
        'the answer is not one token': 1,
    }


def test_several_counterfactuals(write, tokenizer):
    path = write(
        {
            'prompt': '2+3=',
            'label': '5',
            'operator': '+',
            'counterfactuals': {
                'ones_op1': {'prompt': '4+3=', 'label': '7'},
                'ones_carry': {'prompt': '9+3=', 'label': '12'},
            },
        },
        {
            'prompt': '1+3=',
            'label': '4',
            'ones_carry_counterfactual': {'prompt': '8+3=', 'label': 11},
        },
    )
    chosen = read_task_file(path, tokenizer, counterfactual='ones_carry')
    assert chosen.counterfactual_answers.tolist() == tokenizer.convert_tokens_to_ids(['12', '11'])
    first = read_task_file(path, tokenizer)
    # The second line has no ones_op1, so its counterfactual is drawn: the only other problem.
    assert first.counterfactual_answers.tolist() == tokenizer.convert_tokens_to_ids(['7', '5'])
    with pytest.raises(InputError, match="no counterfactual 'tens'; there are ones_op1, ones_"):
        read_task_file(path, tokenizer, counterfactual='tens')


def test_the_form_of_other_prompts_is_their_text(write):
    tokenizer = build_arithmetic_tokenizer()
    path = write(
        {'prompt': '2 2', 'answer': '='},
        {'prompt': '2 2', 'answer': '='},
        {'prompt': '3 3', 'answer': '+'},
        {'prompt': '1+1=', 'answer': '2'},
        {'prompt': '1+3=', 'answer': '4'},
    )
    dataset = read_task_file(path, tokenizer)
    forms = dataset.forms
    assert forms[0] == forms[1]
    assert len(set(forms)) == 4
    assert dataset.labels.keys() == {'answer'}
    assert [dataset.label_names['answer'][i] for i in dataset.labels['answer']] == list('==+24')


def test_operand_keys_give_the_form(write, tokenizer):
    keys = {'operator': '+', 'operand1': 2, 'operand2': 3}
    path = write(
        {'prompt': '2 3 ', 'answer': 5, **keys},
        {'prompt': '3+2=', 'answer': 5},
        {'prompt': '4 3 ', 'answer': 7, **keys, 'operand1': 4},
        {'prompt': '4+2=', 'answer': 6},
    )
    forms = read_task_file(path, tokenizer).forms
    assert forms[0] == forms[1]
    assert len(set(forms)) == 3


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"prompt": "1+1="', r'line 2: no JSON \(Expecting .* at column 18\)'),
        ('[1, 2]', 'line 2: expected an object such as'),
        ('{"answer": 3}', 'line 2: "prompt" is null; expected a text'),
        ('{"prompt": 3, "answer": 3}', 'line 2: "prompt" is 3; expected a text'),
        ('{"prompt": "1+1="}', r'line 2: no "answer" \(or "label"\)'),
        ('{"prompt": "1+1=", "answer": 2.0}', r'line 2: "answer" is 2\.0; expected'),
        ('{"prompt": "1+1=", "answer": true}', 'line 2: "answer" is true; expected'),
        ('{"prompt": "1+1=", "answer": ""}', 'line 2: "answer" is ""; expected'),
        ('{"prompt": "1+1=", "answer": 2, "label": "3"}', 'line 2: "answer" and "label" differ'),
        ('{"prompt": "1+1=", "answer": 2, "counterfactual": 4}', 'line 2: counterfactual "counter'),
        ('{"prompt": "1+1=", "answer": 2, "counterfactual": {}}', 'line 2: "prompt" is null'),
        ('{"prompt": "1+1=", "answer": 2, "counterfactuals": [1]}', 'line 2: "counterfactuals" mu'),
    ],
)
def test_broken_lines(write, line, message):
    path = write({'prompt': '2+2=', 'answer': 4}, line, 'never reached')
    with pytest.raises(InputError, match=message) as error:
        read_examples(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_an_unknown_answer_of_a_counterfactual(write, tokenizer):
    path = write({'prompt': '2+2=', 'answer': 4, 'counterfactual': '7 7'})
    with pytest.raises(
        InputError, match=r"line 1: the answer of counterfactual '7 7' is not known"
    ):
        read_task_file(path, tokenizer)


def test_broken_files(write, tmp_path, tokenizer):
    with pytest.raises(InputError, match=r'absent\.jsonl cannot be read \(No such file'):
        read_task_file(tmp_path / 'absent.jsonl', tokenizer)
    with pytest.raises(InputError, match=r'cannot be read \(Is a directory'):
        read_examples(tmp_path)
    with pytest.raises(InputError, match='has no lines'):
        read_examples(write('', ' '))
    path = tmp_path / 'latin.jsonl'
    path.write_bytes('{"prompt": "é", "answer": 1}'.encode('latin-1'))
    with pytest.raises(InputError, match='line 1: byte 13 is no UTF-8'):
        read_examples(path)
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "1+1=", "answer": 2}\r\n')
    assert [example.answer for example in read_examples(path)] == ['2']


def test_nothing_fits(write, tokenizer):
    path = write({'prompt': 'Compute 2+2=', 'answer': 4})
    with pytest.raises(
        InputError, match=r"first, 'Compute 2\+2=', is left out because the prompt has"
    ):
        read_task_file(path, tokenizer)


def test_the_drawn_counterfactuals_follow_the_seed(write, tokenizer):
    path = write(*({'prompt': f'{a}+{b}=', 'answer': a + b} for a in range(9) for b in range(9)))
    first, again, other = (read_task_file(path, tokenizer, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.counterfactual_tokens, again.counterfactual_tokens)
    assert (first.counterfactual_tokens != other.counterfactual_tokens).any()
    assert first.hash == again.hash != other.hash


def test_what_the_prefix_solves_is_left_out(write, tokenizer):
    path = write(
        {'prompt': '2+3=', 'answer': 5},
        {'prompt': '3 + 2 =', 'answer': 5},  # the same form
        {'prompt': '2+33=', 'answer': 35},
        {'prompt': '4+3=', 'answer': 7},
        {'prompt': '4+4=', 'answer': 8},
    )
    dataset = read_task_file(path, tokenizer, prompt_prefix='12+3=15 2+3=5 4+4=8 ')
    assert [prompt.split()[-1] for prompt in dataset.prompts] == ['2+33=', '4+3=']
    assert dataset.left_out == {'the prompt prefix solves it': 3}
    # Without an expression, word for word.
    lines = ({'prompt': f'{a}=={a}=', 'answer': a} for a in range(5))
    dataset = read_task_file(write(*lines), tokenizer, prompt_prefix='2==2=2 ')
    assert dataset.left_out == {'the prompt prefix solves it': 1}
