"""Generated tasks beside the arithmetic of `ArithmeticTask`: one file and one line each."""

from typing import TYPE_CHECKING, Any

from cdjax.data.arithmetic import ArithmeticTask
from cdjax.data.dataset import Dataset
from cdjax.data.examples import encode_problems
from cdjax.data.task_file import read_task_file
from cdjax.data.tasks.lookup import cued_lookup, operator_lookup, order_lookup
from cdjax.data.tasks.modular_addition import MODULAR_ADDITION
from cdjax.data.tasks.task import TASKS, Task
from cdjax.data.tasks.two_operands import TWO_OPERANDS

if TYPE_CHECKING:  # importing it takes as long as importing JAX
    from transformers import PreTrainedTokenizerFast

__all__ = ['TASKS', 'Task', 'encode_task']

TASKS.add(MODULAR_ADDITION)
TASKS.add(operator_lookup())
TASKS.add(operator_lookup('lookup_two', tables=2))
TASKS.add(order_lookup())
TASKS.add(cued_lookup('lookup_second', 0))
TASKS.add(cued_lookup('lookup_third', 1))
TASKS.add(TWO_OPERANDS)


def encode_task(
    task: ArithmeticTask | str, tokenizer: 'PreTrainedTokenizerFast', **options: Any
) -> Dataset:
    """Tokenizes the problems of a task.

    Args:
        task: arithmetic, the key of a generated task, or the path of a task file.
        tokenizer: of the model in use.
        **options: `prompt_prefix`, `answer_tokens` and `answer_end`, see
            `cdjax.data.examples.encode_problems`; arithmetic has its own.

    Raises:
        InputError: nothing fits the tokenizer, or the file is broken.
    """
    if isinstance(task, ArithmeticTask):
        return task.encode(tokenizer)
    if task in TASKS:
        examples = TASKS[task].examples()
        return encode_problems(examples, tokenizer, source=task, **options)
    return read_task_file(task, tokenizer, **options)
