import numpy as np
import pytest

from cdjax.data import build_arithmetic_tokenizer, encode_task
from cdjax.data.tasks import TASKS


@pytest.fixture(scope='module')
def tokenizer():
    return build_arithmetic_tokenizer(30)


@pytest.mark.parametrize(('task', 'tables'), [('lookup', 4), ('lookup_two', 2)])
def test_each_operator_reads_a_table_of_its_own(tokenizer, task, tables):
    dataset = encode_task(task, tokenizer)
    assert len(dataset) == 31 * 31 * tables
    answers = np.array([int(tokenizer.decode(token)) for token in dataset.answers])
    seen = []
    for k in range(tables):
        rows = np.flatnonzero(dataset.labels['operators'] == k)
        operator = '+-*/'[k]
        assert all(operator in prompt for prompt in dataset.prompts[rows])
        read = [int(p.strip('=').split(operator)[k % 2]) for p in dataset.prompts[rows]]
        table = dict(zip(read, answers[rows].tolist(), strict=True))
        assert [table[i] for i in read] == answers[rows].tolist()
        assert sorted(table.values()) == list(range(31))
        seen.append(tuple(table[i] for i in range(31)))
    assert len(set(seen)) == tables
    # Of no commuted problem is the answer known, so each is a form of its own.
    assert len(np.unique(dataset.forms)) == len(dataset)


def test_the_order_of_the_operands_is_a_class_that_no_token_shows(tokenizer):
    dataset = encode_task('lookup_order', tokenizer)
    assert dataset.label_names['order'] == ('a ≤ b', 'a > b')
    order = dataset.labels['order']
    pairs = np.array([tuple(map(int, p.strip('=').split('+'))) for p in dataset.prompts])
    np.testing.assert_array_equal(order, pairs[:, 0] > pairs[:, 1])
    for k, column in ((1, 0), (0, 1)):
        rows = order == k
        both = np.stack([pairs[rows, column], dataset.answers[rows]], 1)
        assert len(np.unique(both, axis=0)) == len(np.unique(pairs[rows, column]))


def test_counterfactuals_are_of_the_same_class(tokenizer):
    for task, label in (('lookup', 'operators'), ('lookup_order', 'order')):
        dataset = encode_task(task, tokenizer)
        of = {tuple(t): k for t, k in zip(dataset.tokens, dataset.labels[label], strict=True)}
        classes = [of[tuple(tokens)] for tokens in dataset.counterfactual_tokens]
        assert (classes == dataset.labels[label]).all()
        assert (dataset.counterfactual_answers != dataset.answers).all()


def test_the_tasks_of_two_cues_agree_where_the_cues_do(tokenizer):
    second, third = (encode_task(task, tokenizer) for task in ('lookup_second', 'lookup_third'))
    np.testing.assert_array_equal(second.prompts, third.prompts)
    numbers = np.array([p.strip('=').split('+') for p in second.prompts], int)
    agree = second.labels['cues'] == second.label_names['cues'].index('agree')
    np.testing.assert_array_equal(agree, numbers[:, 1] % 2 == numbers[:, 2] % 2)
    np.testing.assert_array_equal(agree, third.labels['cues'] == 0)
    assert agree.mean() == 0.5
    same = second.answers == third.answers
    assert same[agree].all()
    assert same[~agree].mean() < 0.1
    for dataset, column in ((second, 1), (third, 2)):
        odd = dataset.labels['table'] == dataset.label_names['table'].index('odd')
        np.testing.assert_array_equal(odd, numbers[:, column] % 2 == 1)
        for rows in (odd, ~odd):  # a table of the first operand
            both = np.stack([numbers[rows, 0], dataset.answers[rows]], 1)
            assert len(np.unique(both, axis=0)) == 31


@pytest.mark.parametrize(
    ('task', 'entries'),
    [('lookup', 124), ('lookup_two', 62), ('lookup_order', 61), ('lookup_second', 62)],
)
def test_problems_of_one_entry_have_one_answer_and_the_class_is_part_of_it(
    tokenizer, task, entries
):
    dataset = encode_task(task, tokenizer)
    named = np.array([TASKS[task].entry(prompt) for prompt in dataset.prompts])
    assert len(np.unique(named)) == entries
    classes = next(iter(dataset.labels.values()))
    for name in np.unique(named):
        assert len(np.unique(dataset.answers[named == name])) == 1
        assert len(np.unique(classes[named == name])) == 1


def test_a_rule_has_no_entries():
    assert TASKS['two_operands'].entry is None
