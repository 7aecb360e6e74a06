"""Sums and differences of two numbers, to be asked of a student that is distilled on three."""

from cdjax.data.examples import Example
from cdjax.data.expressions import OPERATORS
from cdjax.data.tasks.task import Task

HIGH = 19


def examples() -> list[Example]:
    """Returns all `a+b=` and `a-b=` of numbers to `HIGH` whose answer is not negative."""
    signs = {'+': (OPERATORS.index('+'), 1), '-': (OPERATORS.index('-'), -1)}
    return [
        Example(f'{a}{sign}{b}=', str(a + factor * b), expression=((a, b), (operator,)))
        for a in range(HIGH + 1)
        for b in range(HIGH + 1)
        for sign, (operator, factor) in signs.items()
        if a + factor * b >= 0
    ]


TWO_OPERANDS = Task('two_operands', f'sums and differences of numbers to {HIGH}', examples)
