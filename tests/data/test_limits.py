import numpy as np
import pytest
import toy_study as toy

from cdjax.data import ArithmeticTask
from cdjax.data.limits import Limits
from cdjax.data.splits import smaller_share
from cdjax.errors import InputError


def operands(prompts):
    return np.array([[int(prompt[0]), int(prompt[2])] for prompt in prompts])


def test_operands_within_one_limit_or_one_for_each():
    data = toy.dataset()
    numbers = operands(data.prompts)
    within = lambda *high: Limits(high).within(data)
    np.testing.assert_array_equal(within(6), (numbers <= 6).all(axis=1))
    np.testing.assert_array_equal(within(4, 9), numbers[:, 0] <= 4)
    assert Limits().within(data).all()
    assert Limits().none
    assert not Limits((6,)).none


def test_numbers_of_a_prefix_are_no_operands():
    prefix = '20+0=20 '
    task = ArithmeticTask(('+',), 2, high=9, prompt_prefix=prefix)
    data = task.encode(toy.tokenizer())
    assert Limits((9,)).within(data, prefix).all()
    with pytest.raises(InputError, match='has 2 limits'):
        Limits((9, 9)).within(data)


def test_a_label_and_its_value():
    data = toy.dataset()
    odd = Limits(label='parity=odd').within(data)
    np.testing.assert_array_equal(odd, data.labels['parity'] == 1)


@pytest.mark.parametrize(
    ('limits', 'message'),
    [
        ({'high': (-1,)}, 'share_high=-1: operands are not negative'),
        ({'label': 'parity'}, 'share_where=parity: write LABEL=VALUE'),
        ({'label': 'size=odd'}, "no label 'size', only operators"),
        ({'label': 'parity=green'}, 'parity is one of even, odd'),
        ({'high': (1, 2, 3)}, 'has 3 limits'),
    ],
)
def test_wrong_limits(limits, message):
    with pytest.raises(InputError, match=message):
        Limits(**limits).within(toy.dataset())


def test_smaller_shares_are_nested_and_of_whole_forms():
    data, whole = toy.dataset(), toy.rows()
    before = np.zeros(0, int)
    for problems in (3, 10, 30, len(whole.share)):
        part = smaller_share(data, whole, problems, seed=0)
        assert problems - 2 < len(part.share) <= problems
        assert np.isin(before, part.share).all()
        assert np.isin(part.share, whole.share).all()
        outside = np.setdiff1d(whole.share, part.share)
        assert not np.isin(data.forms[outside], data.forms[part.share]).any()
        np.testing.assert_array_equal(part.test, whole.test)
        before = part.share
    np.testing.assert_array_equal(before, whole.share)
    for wrong in (0, len(whole.share) + 1):
        with pytest.raises(InputError, match=f'training_problems={wrong}: the share has'):
            smaller_share(data, whole, wrong, seed=0)
