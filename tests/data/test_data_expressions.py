import re
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from cdjax.data.expressions import OPERATORS, canonical_forms, evaluate, parse, row_ids, shown_in


def everything(symbols, numbers, operands):
    """All expressions as (operands, operators, text)."""
    rows = list(product(product(symbols, repeat=operands - 1), product(numbers, repeat=operands)))
    texts = [
        ''.join(str(n) + s for n, s in zip(numbers, (*signs, ''), strict=True))
        for signs, numbers in rows
    ]
    operators = [[OPERATORS.index(s) for s in signs] for signs, _ in rows]
    return np.array([numbers for _, numbers in rows]), np.array(operators), texts


def in_python(text):
    """Lets Python evaluate the expression with fractions; None where a division is not exact."""
    parts = re.split(r'([-+*/])', text)
    rational = [part if part in '+-*/' else f'Fraction({part})' for part in parts]
    term = ''
    for part in rational:
        term = '' if part in '+-' else term + part
        if term and part not in '*/':
            try:
                if eval(term, {'Fraction': Fraction}).denominator != 1:
                    return None
            except ZeroDivisionError:
                return None
    return eval(''.join(rational), {'Fraction': Fraction})


@pytest.mark.parametrize('operands', [2, 3])
def test_values_are_those_of_python(operands):
    numbers, operators, texts = everything('+-*/', (0, 1, 2, 3, 4, 6, 12), operands)
    values, exact, _ = evaluate(numbers, operators)
    computed = [int(value) if fits else None for value, fits in zip(values, exact, strict=True)]
    assert computed == [in_python(text) for text in texts]
    assert 0 < exact.sum() < len(texts)


@pytest.mark.parametrize(
    ('text', 'exact'),
    [
        ('6/2', True),
        ('6/4', False),
        ('6/0', False),
        ('2*6/4', True),
        ('6/4*2', False),
        ('12/2/3', True),
        ('12/3/0', False),
        ('1-6/3', True),
    ],
)
def test_a_division_is_exact_at_every_step(text, exact):
    numbers, operators = parse(f'{text}=')
    assert evaluate(np.array([numbers]), np.array([operators]))[1] == [exact]


@pytest.mark.parametrize(
    ('text', 'carry'),
    [
        ('4+5', False),
        ('5+5', True),
        ('14+15', False),
        ('17-5', False),
        ('15-7', True),
        ('5+7-8', True),  # carries, and borrows back
        ('5-7+9', True),
        ('11+12+13', False),
        ('3*3', False),
        ('13*4', True),
        ('1+3*4', True),
        ('12/4', False),
    ],
)
def test_carries_at_the_ones(text, carry):
    numbers, operators = parse(f'{text}=')
    assert evaluate(np.array([numbers]), np.array([operators]))[2] == [carry]


def brute_force_form(text):
    """The form by string surgery: signed terms sorted, factors and divisors sorted in each."""
    terms = text.replace('-', '+~').split('+')
    forms = []
    for term in terms:
        sign, factors = ('-' if term.startswith('~') else '+'), term.strip('~').split('*')
        over, under = [], []
        for factor in factors:
            head, *tail = factor.split('/')
            over.append(int(head))
            under += map(int, tail)
        forms.append((sign, sorted(over), sorted(under)))
    return str(sorted(forms))


@pytest.mark.parametrize('operands', [2, 3])
def test_forms_are_those_of_string_surgery(operands):
    numbers, operators, texts = everything('+-*/', (0, 1, 2, 11, 12), operands)
    forms = canonical_forms(numbers, operators)
    of_text = {}
    for text, form in zip(texts, forms, strict=True):
        assert of_text.setdefault(brute_force_form(text), form) == form, text
    assert len(set(of_text.values())) == len(of_text)
    assert sorted(set(forms)) == list(range(len(of_text)))


def test_expressions_of_unequal_length_share_their_numbering():
    forms = canonical_forms(
        np.array([[3, 4, -1], [4, 3, -1], [3, 4, 5], [5, 3, 4]]),
        np.array([[0, -1], [0, -1], [0, 0], [0, 0]]),
    )
    assert forms[0] == forms[1] != forms[2] == forms[3]


def test_row_ids_equal_numpy_unique():
    rows = np.random.default_rng(0).integers(-3, 4, (500, 3))
    np.testing.assert_array_equal(
        row_ids(rows), np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    )
    assert row_ids(np.zeros((0, 2), int)).shape == (0,)


@pytest.mark.parametrize(
    ('prompt', 'expected'),
    [
        ('24+80=', ((24, 80), (0,))),
        ('What is 3 × 4 − 2 = ', ((3, 4, 2), (2, 1))),
        ('1+2=3\n24+80=', ((24, 80), (0,))),
        ('8 ÷ 4 =', ((8, 4), (3,))),
        ('5=', None),
        ('3+4', None),
        ('-3+4=', None),
        ('- 3 + 4=', None),
        ('1.5+4=', None),
        ('(1+2)*3=', None),
        ('The sum of 3 and 4 is ', None),
    ],
)
def test_parse(prompt, expected):
    assert parse(prompt) == expected


@pytest.mark.parametrize(
    ('text', 'solved'),
    [
        ('', ''),
        ('2+3', ''),
        ('2+3=', ''),  # nothing is solved yet
        ('2+3=5', '2+3 3+2'),
        ('2 + 3 = 5', '2+3 3+2'),
        ('3−2=1, 2*2=4;3*3= 9', '3-2 2*2 3*3'),
        ('12+3=15', ''),  # of numbers that are none of the problems
        ('2+3+3=8', ''),
        ('2-3=-1', '2-3'),
    ],
)
def test_what_a_text_solves(text, solved):
    numbers, operators, texts = everything('+-*', (2, 3), 2)
    found = shown_in(text, numbers, operators)
    assert {text for text, shown in zip(texts, found, strict=True) if shown} == set(solved.split())
