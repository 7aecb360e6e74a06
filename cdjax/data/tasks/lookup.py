"""Lookups in tables that are drawn at random: nothing generalises but the tables themselves.

The class of a problem says which table is read, and by which operand. A network learns that in
seconds, and a class has no answer that another lacks: no answer tells which class it is from.
"""

import numpy as np

from cdjax.data.examples import Example
from cdjax.data.expressions import OPERATORS, SIGNS
from cdjax.data.tasks.task import Task

NUMBERS = 31


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
    return Task(key, f'{tables} tables, told apart by the operator', examples)


def order_lookup() -> Task:
    """Returns the task `a + b =` whose table depends on the order of the operands.

    π_0(a) where a > b, else π_1(b); the label `order` is the class, which no token shows.
    """
    cases = [(a, '+', b, int(a <= b)) for a in range(NUMBERS) for b in range(NUMBERS)]
    examples = lambda: _examples(cases, 'order', ['a > b', 'a ≤ b'])
    return Task('lookup_order', 'two tables, told apart by which operand is larger', examples)


def _examples(
    cases: list[tuple[int, str, int, int]], label: str, names: list[str]
) -> list[Example]:
    """Returns an example for each (a, operator, b, class)."""
    tables = np.random.default_rng(0).permuted(np.tile(np.arange(NUMBERS), (len(names), 1)), axis=1)
    return [
        Example(
            f'{a}{operator}{b}=',
            str(tables[k, b if k % 2 else a]),
            labels={label: names[k]},
        )
        for a, operator, b, k in cases
    ]
