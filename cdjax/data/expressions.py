"""Arithmetic expressions as arrays: their values, their carries and their canonical forms.

`N` expressions of up to `n` operands are two integer arrays: `operands [N, n]`, and
`operators [N, n - 1]` whose entries index OPERATORS. A shorter expression is padded at its end
with -1. Multiplication and division bind tighter than addition and subtraction; operators of
equal rank apply from left to right.
"""

import re
from collections.abc import Iterator

import numpy as np

OPERATORS = ('+', '-', '*', '/')
SIGNS = {'+': '+', '-': '−', '*': '×', '/': '÷'}  # as a reader writes them
SPELLINGS = {**{symbol: symbol for symbol in OPERATORS}, '−': '-', '×': '*', '÷': '/'}

# The expression that a prompt ends with. An operator or a bracket before it would belong to it.
_WRITTEN = r'(\d{1,9}(?:\s*[-+*/×÷−]\s*\d{1,9}){1,7})\s*=\s*'
_EXPRESSION = re.compile(rf'(?<!\S)(?<![-+*/×÷−(]\s){_WRITTEN}$')
# A solved one, anywhere in a text.
_SOLVED = re.compile(rf'(?<!\d){_WRITTEN}-?\d')


def parse(prompt: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Reads the expression before the final '=' of a prompt, as in 'What is 3 + 4 =' or '3×4='.

    Returns:
      Its operands and its operators (indices into OPERATORS), or None where the prompt does not
      end with an expression of at least two unsigned integers.
    """
    found = _EXPRESSION.search(prompt)
    return _read(found[1]) if found else None


def _read(written: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    numbers, signs = re.findall(r'\d+', written), re.findall(r'[^\d\s]', written)
    return (
        tuple(map(int, numbers)),
        tuple(OPERATORS.index(SPELLINGS[sign]) for sign in signs),
    )


def shown_in(text: str, operands: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Tells which expressions have the form of one that a text solves, as '1+2=3, 4+4=8' does.

    Args:
      text: such as the solved examples in front of each prompt.
      operands: int [N, n].
      operators: int [N, n - 1], indices into OPERATORS.

    Returns:
      bool [N].
    """
    solved = {_read(found) for found in _SOLVED.findall(text)}
    N, n = operands.shape
    rows = [(numbers, signs) for numbers, signs in solved if len(numbers) <= n]
    if not rows:
        return np.zeros(N, bool)
    pad = lambda parts, width: [(*part, *[-1] * (width - len(part))) for part in parts]
    numbers, signs = zip(*rows, strict=True)
    forms = canonical_forms(
        np.concatenate([operands, np.array(pad(numbers, n), np.int64)]),
        np.concatenate([operators, np.array(pad(signs, n - 1), np.int64)]),
    )
    return np.isin(forms[:N], forms[N:])


def evaluate(
    operands: np.ndarray, operators: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes every expression, and tells where a division is not exact and where one carries.

    Args:
      operands: int [N, n].
      operators: int [N, n - 1], indices into OPERATORS.

    Returns:
      values: int64 [N]. Meaningless where `exact` is False.
      exact: bool [N], False where some division has a remainder or divides by zero.
      carries: bool [N], True where some step carries into or borrows from the tens: the ones
        digits of a sum or a product reach ten, or those of a difference need a borrow. A
        negative intermediate value counts with its digit modulo ten; a division never carries.
    """
    N = len(operands)
    values = np.zeros(N, np.int64)
    exact, carries = np.ones(N, bool), np.zeros(N, bool)
    for rows, symbols in _by_operators(operators):
        x = operands[rows].astype(np.int64)
        fits, carry = np.ones(len(x), bool), np.zeros(len(x), bool)
        terms = []
        for subtracted, factors, divisors in _terms(symbols):
            value = x[:, factors[0]]
            # Positions in the order of writing: a*b/c divides the product, a/b*c the quotient.
            for position in sorted(factors[1:] + divisors):
                other = x[:, position]
                if position in divisors:
                    safe = np.where(other == 0, 1, other)
                    fits &= (other != 0) & (value % safe == 0)
                    value = value // safe
                else:
                    carry |= (value % 10) * (other % 10) >= 10
                    value = value * other
            terms.append((subtracted, value))
        total = terms[0][1]
        for subtracted, value in terms[1:]:
            if subtracted:
                carry |= total % 10 < value % 10
                total = total - value
            else:
                carry |= total % 10 + value % 10 >= 10
                total = total + value
        values[rows], exact[rows], carries[rows] = total, fits, carry
    return values, exact, carries


def canonical_forms(operands: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Numbers the expressions so that two of one form, and no others, have one number.

    The form is the expression up to order: added terms commute, subtracted terms commute, and
    within a term the factors commute and the divisors commute. So 2+3-1, 3+2-1 and 2-1+3 are
    one form. Nothing is computed: 3+0 and 3-0 stay two forms, as do 2+3 and 1+4.

    Args:
      operands: int [N, n].
      operators: int [N, n - 1], indices into OPERATORS.

    Returns:
      int32 [N], numbers from 0 without gaps.
    """
    N, n = operands.shape
    # A term is its sorted factors, its sorted divisors, and how many of the latter.
    terms = np.full((N, n, n + 1), -1, np.int64)
    subtracted = np.zeros((N, n), np.int64)
    for rows, symbols in _by_operators(operators):
        for slot, (minus, factors, divisors) in enumerate(_terms(symbols)):
            written = [np.sort(operands[rows][:, columns], 1) for columns in (factors, divisors)]
            terms[rows, slot, : len(factors) + len(divisors)] = np.concatenate(written, 1)
            terms[rows, slot, n] = len(divisors)
            subtracted[rows, slot] = minus
    term_ids = row_ids(terms.reshape(N * n, n + 1)).reshape(N, n)
    return row_ids(np.sort(2 * term_ids + subtracted, axis=1)).astype(np.int32)


def row_ids(rows: np.ndarray) -> np.ndarray:
    """Numbers equal rows alike, in lexicographic order: `np.unique(axis=0)`, many times faster.

    Args:
      rows: int [N, C].

    Returns:
      int64 [N], numbers from 0 without gaps.
    """
    ids = np.zeros(len(rows), np.int64)
    for column in rows.T.astype(np.int64) if len(rows) else ():
        column = column - column.min()
        ids = np.unique(ids * (column.max() + 1) + column, return_inverse=True)[1]
    return ids


def _by_operators(operators: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[str, ...]]]:
    """Yields, for each sequence of operators that occurs, its rows and its symbols."""
    ids = row_ids(operators)
    for number, first in enumerate(np.unique(ids, return_index=True)[1]):
        symbols = tuple(OPERATORS[index] for index in operators[first] if index >= 0)
        yield np.flatnonzero(ids == number), symbols


def _terms(symbols: tuple[str, ...]) -> list[tuple[bool, list[int], list[int]]]:
    """Splits an expression into terms: (subtracted?, positions of factors, of divisors)."""
    terms = [(False, [0], [])]
    for position, symbol in enumerate(symbols, start=1):
        if symbol in '+-':
            terms.append((symbol == '-', [position], []))
        else:
            terms[-1][1 if symbol == '*' else 2].append(position)
    return terms
