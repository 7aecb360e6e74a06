"""Addition modulo a prime, the task in which mechanisms were first read off weights.

Nanda et al., "Progress measures for grokking via mechanistic interpretability", arXiv 2301.05217.
"""

from cdjax.data.examples import Example
from cdjax.data.expressions import OPERATORS
from cdjax.data.tasks.task import Task

PRIME = 113


def examples() -> list[Example]:
    """Returns all sums `a+b=` of residues, whose answer is (a + b) mod `PRIME`.

    Sums that differ in the order of their operands are one canonical form, and never on both
    sides of a split.
    """
    plus = OPERATORS.index('+')
    return [
        Example(f'{a}+{b}=', str((a + b) % PRIME), expression=((a, b), (plus,)))
        for a in range(PRIME)
        for b in range(PRIME)
    ]


MODULAR_ADDITION = Task(f'mod_{PRIME}', f'addition modulo {PRIME}', examples)
