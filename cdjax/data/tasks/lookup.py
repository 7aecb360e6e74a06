"""Lookups in tables that are drawn at random: nothing generalises but the tables themselves.

The class of a problem says which table is read, and by which operand. A network learns that in
seconds, and a class has no answer that another lacks: no answer tells which class it is from.
"""

import itertools
import re

import numpy as np

from cdjax.data.examples import Example
from cdjax.data.expressions import OPERATORS, SIGNS
from cdjax.data.tasks.task import Task

NUMBERS = 31
CUES = 8  # numbers that a cue is one of


def operator_lookup(key: str = 'lookup', tables: int = 4) -> Task:
    """Returns the task `a op b =` whose operator says which table is read.

    π_0(a) for +, π_1(b) for -, π_2(a) for *, π_3(b) for /, of numbers from 0 to 30; the label
    `operators` is the class.

    Args:
        key: of the task.
        tables: operators that there are, in this order.
    """
    cases = [
        (a, operator, b, k)
        for k, operator in enumerate(OPERATORS[:tables])
        for a in range(NUMBERS)
        for b in range(NUMBERS)
    ]
    names = [SIGNS[operator] for operator in OPERATORS[:tables]]
    examples = lambda: _examples(cases, 'operators', names)

    def entry(prompt: str) -> str:
        a, operator, b = _parts(prompt)
        return f'{operator} {(a, b)[OPERATORS.index(operator) % 2]}'

    return Task(key, f'{tables} tables, told apart by the operator', examples, entry)


def order_lookup() -> Task:
    """Returns the task `a + b =` whose table depends on the order of the operands.

    π_0(a) where a > b, else π_1(b); the label `order` is the class, which no token shows.
    """
    cases = [(a, '+', b, int(a <= b)) for a in range(NUMBERS) for b in range(NUMBERS)]
    examples = lambda: _examples(cases, 'order', ['a > b', 'a ≤ b'])

    def entry(prompt: str) -> str:
        a, _, b = _parts(prompt)
        return f'> {a}' if int(a) > int(b) else f'≤ {b}'

    title = 'two tables, told apart by which operand is larger'
    return Task('lookup_order', title, examples, entry)


def cued_lookup(key: str, cue: int) -> Task:
    """Returns the task `a + b + c =` whose table, π_0(a) or π_1(a), one of two cues tells.

    Cues are the parities of b and of c, numbers from 0 to 7. The two tasks of the two cues have the
    same prompts, and the same answers wherever the cues agree: there, answers cannot tell which of
    the two rules a model goes by. Labels are `table`, the class, and `cues`, agree or differ.

    Args:
        key: of the task.
        cue: 0 for that of b, 1 for that of c.
    """
    tables = _tables(2)

    def examples() -> list[Example]:
        found = []
        for a, b, c in itertools.product(range(NUMBERS), range(CUES), range(CUES)):
            table = (b, c)[cue] % 2
            labels = {
                'table': ('even', 'odd')[table],
                'cues': 'agree' if b % 2 == c % 2 else 'differ',
            }
            found.append(Example(f'{a}+{b}+{c}=', str(tables[table, a]), labels=labels))
        return found

    def entry(prompt: str) -> str:
        a, _, *cues = _parts(prompt)
        return f'{int(cues[2 * cue]) % 2} {a}'

    title = f'two tables, told apart by the parity of operand {cue + 2}'
    return Task(key, title, examples, entry)


def _parts(prompt: str) -> list[str]:
    """Returns the numbers of a prompt and the operators between them."""
    return re.findall(r'\d+|[^\d=]', prompt)


def _tables(number: int) -> np.ndarray:
    """Returns permutations of the numbers, int `[number, NUMBERS]`."""
    return np.random.default_rng(0).permuted(np.tile(np.arange(NUMBERS), (number, 1)), axis=1)


def _examples(
    cases: list[tuple[int, str, int, int]], label: str, names: list[str]
) -> list[Example]:
    """Returns an example for each (a, operator, b, class)."""
    tables = _tables(len(names))
    return [
        Example(
            f'{a}{operator}{b}=',
            str(tables[k, b if k % 2 else a]),
            labels={label: names[k]},
        )
        for a, operator, b, k in cases
    ]
