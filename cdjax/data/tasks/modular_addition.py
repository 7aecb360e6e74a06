"""Addition modulo a prime, the task in which mechanisms were first read off weights.

Nanda et al., "Progress measures for grokking via mechanistic interpretability", arXiv 2301.05217.
"""

from cdjax.data.examples import Example
from cdjax.data.expressions import OPERATORS
from cdjax.data.tasks.task import Task


def modular_addition(prime: int = 113) -> Task:
    """Returns the task of all sums `a+b=` of residues, whose answer is (a + b) mod `prime`.

    Sums that differ in the order of their operands are one canonical form, and never on both
    sides of a split.
    """
    plus = OPERATORS.index('+')

    def examples() -> list[Example]:
        return [
            Example(f'{a}+{b}=', str((a + b) % prime), expression=((a, b), (plus,)))
            for a in range(prime)
            for b in range(prime)
        ]

    return Task(f'mod_{prime}', f'addition modulo {prime}', examples)
