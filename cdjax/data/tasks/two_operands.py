"""Sums and differences of two numbers, to be asked of a student that is distilled on three."""

from cdjax.data.arithmetic import ArithmeticTask
from cdjax.data.examples import Example
from cdjax.data.expressions import parse
from cdjax.data.tasks.task import Task

HIGH = 19


def examples() -> list[Example]:
    """Returns all `a+b=` and `a-b=` of numbers to `HIGH` whose answer is not negative."""
    problems = ArithmeticTask(('+', '-'), operands=2, low=0, high=HIGH).problems()
    return [
        Example(prompt, str(answer), expression=parse(prompt))
        for prompt, answer in zip(problems.prompts, problems.answers, strict=True)
    ]


TWO_OPERANDS = Task('two_operands', f'sums and differences of numbers to {HIGH}', examples)
