import time
from collections import Counter

import numpy as np
import pytest
from joining_tokenizer import joining_tokenizer

from cdjax.data import ArithmeticTask, arithmetic, build_arithmetic_tokenizer
from cdjax.errors import InputError


@pytest.fixture(scope='module')
def tokenizer():
    return build_arithmetic_tokenizer()


@pytest.fixture(scope='module')
def dataset(tokenizer):
    return ArithmeticTask().encode(tokenizer)


def compute(prompt):
    """Lets Python compute the text of a prompt."""
    return eval(prompt.rstrip('='))


def test_the_default_has_9940_forms_before_answers_are_limited():
    problems = ArithmeticTask(answer_low=-38).problems()
    assert len(problems) == 32_000
    assert len(set(problems.forms)) == 9_940
    assert problems.left_out == {}


def test_the_default_problems():
    problems = ArithmeticTask().problems()
    wanted = [
        f'{a}{o}{b}{p}{c}='
        for o in '+-'
        for p in '+-'
        for a in range(20)
        for b in range(20)
        for c in range(20)
        if compute(f'{a}{o}{b}{p}{c}') >= 0
    ]
    assert problems.prompts.tolist() == wanted
    assert problems.answers.tolist() == list(map(compute, wanted))
    assert problems.left_out == {'the answer is below 0': 32_000 - len(wanted)}


def test_the_default_is_fast(tokenizer):
    ArithmeticTask(seed=1).problems()
    start = time.process_time()
    problems = ArithmeticTask(seed=2).problems()
    assert time.process_time() - start < 1
    assert len(problems) == 22_880


def test_mixed_operators_and_precedence():
    task = ArithmeticTask(('+', '−', '×', '÷'), 3, 1, 9, answer_low=-100, answer_high=100)
    assert task.operators == ('+', '-', '*', '/')
    problems = task.problems()
    for prompt, answer in zip(problems.prompts[::7], problems.answers[::7], strict=True):
        assert compute(prompt) == answer
        assert -100 <= answer <= 100
    assert problems.left_out.keys() == {'a division is not exact', 'the answer is above 100'}
    assert len(problems) + sum(problems.left_out.values()) == task.size == 16 * 9**3


def test_two_operands(tokenizer):
    dataset = ArithmeticTask(('+', '*'), 2, 0, 9).encode(tokenizer)
    assert dataset.tokens.shape == (200, 5)
    assert len(set(dataset.forms)) == 110
    assert dataset.label_names['operators'] == ('+', '×')


def test_a_drawn_part_is_reproducible_and_accounts_for_all():
    task = ArithmeticTask(num_problems=500, seed=3)
    problems, again = task.problems(), ArithmeticTask(num_problems=500, seed=3).problems()
    assert len(problems) == 500 == len(set(problems.prompts))
    assert problems.prompts.tolist() == again.prompts.tolist()
    other = ArithmeticTask(num_problems=500, seed=4).problems()
    assert problems.prompts.tolist() != other.prompts.tolist()
    assert problems.left_out == {'the answer is below 0': 9_120, 'not drawn': 22_380}


def test_a_range_too_large_to_enumerate(monkeypatch):
    # Drawing a million, of which it keeps 2,000, takes a second.
    monkeypatch.setattr(arithmetic, 'MAX_PROBLEMS', 50_000)
    task = ArithmeticTask(('+', '-'), 3, 0, 299, answer_high=999, num_problems=2_000)
    problems = task.problems()
    assert len(problems) == 2_000 == len(set(problems.prompts))
    assert task.size == 4 * 300**3 == 2_000 + sum(problems.left_out.values())
    assert all(compute(p) == a for p, a in zip(problems.prompts, problems.answers, strict=True))
    # A draw from everywhere, not from the first part of the enumeration.
    np.testing.assert_allclose(problems.operands.mean(0).min(), 149.5, atol=45)
    assert len(np.unique(problems.operators, axis=0)) == 4


def test_tokens_are_the_tokenizers(dataset, tokenizer):
    assert dataset.tokens.dtype == dataset.answers.dtype == dataset.lengths.dtype == np.int32
    assert dataset.counterfactual_tokens.dtype == dataset.forms.dtype == np.int32
    assert set(dataset.lengths) == {7}
    for row in range(0, len(dataset), 97):
        prompt = dataset.prompts[row]
        assert dataset.tokens[row].tolist() == tokenizer(prompt)['input_ids']
        assert tokenizer.decode([dataset.answers[row]]) == str(compute(prompt))


def test_counterfactuals(dataset, tokenizer):
    rows = {tuple(tokens): row for row, tokens in enumerate(dataset.tokens)}
    partners = np.array([rows[tuple(tokens)] for tokens in dataset.counterfactual_tokens])
    np.testing.assert_array_equal(dataset.counterfactual_answers, dataset.answers[partners])
    assert (dataset.counterfactual_answers != dataset.answers).all()
    operators = dataset.labels['operators']
    np.testing.assert_array_equal(operators[partners], operators)
    drawn = lambda seed: ArithmeticTask(high=9, seed=seed).encode(tokenizer).counterfactual_tokens
    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert (drawn(0) != drawn(1)).any(1).mean() > 0.99


def test_labels(dataset):
    names = dataset.label_names
    for row in range(0, len(dataset), 89):
        prompt = dataset.prompts[row]
        label = {name: names[name][values[row]] for name, values in dataset.labels.items()}
        answer = compute(prompt)
        signs = [character for character in prompt if character in '+-']
        a, b, c = (int(n) for n in prompt[:-1].replace('-', '+').split('+'))
        middle = a + b if signs[0] == '+' else a - b
        carries = [
            x % 10 + y % 10 >= 10 if sign == '+' else x % 10 < y % 10
            for x, y, sign in ((a, b, signs[0]), (middle, c, signs[1]))
        ]
        assert label == {
            'operators': ' '.join(signs).replace('-', '−'),
            'answer': str(answer),
            'carry': 'carry' if any(carries) else 'no carry',
            'magnitude': f'{answer // 10 * 10} to {answer // 10 * 10 + 9}',
            'parity': 'odd' if answer % 2 else 'even',
        }
    assert all(values.max() == len(names[name]) - 1 for name, values in dataset.labels.items())


def test_prefix(tokenizer):
    task = ArithmeticTask(('+',), 2, 0, 9, prompt_prefix='1+2=3 ')
    dataset = task.encode(tokenizer)
    # What the prefix solves could be answered by copying: 1+2 and 2+1 are left out.
    assert dataset.tokens.shape == (98, 4)
    assert dataset.left_out == {'the prompt prefix solves it': 2}
    assert not {'1+2=3 1+2=', '1+2=3 2+1='} & set(dataset.prompts)
    shown = tokenizer('1+2=3 ')['input_ids']
    for tokens in (dataset.tokens, dataset.counterfactual_tokens):
        assert tokens.prefix == tuple(shown)
        assert tokens.counted.all()
    assert tokenizer.decode(dataset.tokens.tokens[0]) == '0+0='
    assert task.prompts[0] == dataset.prompts[0] == '1+2=3 0+0='
    # The prefix is not part of the form.
    whole = ArithmeticTask(('+',), 2, 0, 9).encode(tokenizer)
    kept = ~np.isin(whole.prompts, ['1+2=', '2+1='])
    np.testing.assert_array_equal(dataset.forms, whole.forms[kept])


def test_large_and_negative_answers_are_left_out_and_counted(tokenizer):
    dataset = ArithmeticTask(('+', '-'), 2, 0, 99, answer_low=-99).encode(tokenizer)
    large = sum(a + b > 99 for a in range(100) for b in range(100))
    negative = 100 * 99 // 2
    assert dataset.left_out == {'the answer is not one token': large + negative}
    assert len(dataset) == 20_000 - large - negative


def test_prompts_of_the_rarer_length_are_left_out():
    """A tokenizer that joins '1=' makes the prompts that end in 1 shorter."""
    dataset = ArithmeticTask(('+',), 2, 0, 4).encode(joining_tokenizer('1', '='))
    assert dataset.left_out == {'the prompt is not 5 tokens long like most': 5}
    assert Counter(dataset.lengths) == {5: 20}
    assert dataset.tokens.shape == (20, 5)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'operators': ('+', '^')}, r"operators: '\^' is unknown; choose from \+ - \* /"),
        ({'operators': ()}, 'name at least one'),
        ({'operators': ('-', '−')}, 'operators=-,-: .*each of them once'),
        ({'operands': 4}, 'operands=4: an expression has 2 or 3'),
        ({'low': -1}, 'low=-1: operands start at 0'),
        ({'low': 5, 'high': 4}, 'high=4 is below low=5'),
        ({'answer_low': 3, 'answer_high': 2}, 'answer_high=2 is below answer_low=3'),
        ({'num_problems': 0}, 'num_problems=0: expected 1 to 1000000'),
        ({'high': 299}, '108000000 problems, more than 1000000: set num_problems'),
        ({'high': 10**6, 'num_problems': 1}, 'high=1000000: expected at most 99999'),
        ({'seed': -1}, 'seed=-1 must not be negative'),
    ],
)
def test_bad_tasks(changes, message):
    with pytest.raises(InputError, match=message) as error:
        ArithmeticTask(**changes)
    assert '\n' not in str(error.value)


def test_no_problem_in_range():
    with pytest.raises(InputError, match=r'no problem of \+ .* has an answer from 50 to 60: widen'):
        ArithmeticTask(('+',), 2, 0, 9, answer_low=50, answer_high=60).problems()
    with pytest.raises(InputError, match='operands 0 to 9 has an answer of at least 50: widen'):
        ArithmeticTask(('+',), 2, 0, 9, answer_low=50).problems()


def test_operands_beyond_the_tokenizer(tokenizer):
    with pytest.raises(InputError, match=r'0 to 120: 100 is not one token.*from 0 to 99, or keep'):
        ArithmeticTask(('+',), 2, 0, 120).encode(tokenizer)


def test_nothing_fits(tokenizer):
    with pytest.raises(InputError, match=r"first, '60\+60=', .*the answer is not one token"):
        ArithmeticTask(('+',), 2, 60, 99).encode(tokenizer)
    with pytest.raises(InputError, match=r"first, '7\+8=', .*no other problem has the same length"):
        ArithmeticTask(('+',), 2, 7, 8, answer_low=15, answer_high=15).encode(tokenizer)
    with pytest.raises(InputError, match='characters that the tokenizer cannot write'):
        ArithmeticTask(('+',), 2, 0, 9, prompt_prefix='Compute: ').encode(tokenizer)
