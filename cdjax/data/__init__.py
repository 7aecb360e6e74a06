"""Arithmetic problems and task files, as text, as tokens, split and batched."""

from cdjax.data.arithmetic import ArithmeticTask, Problems
from cdjax.data.dataset import Dataset
from cdjax.data.examples import Example
from cdjax.data.splits import Split, batch_indices, split
from cdjax.data.task_file import read_task_file
from cdjax.data.tasks import TASKS, Task, encode_task
from cdjax.data.token_rows import TokenRows
from cdjax.data.tokenizer import build_arithmetic_tokenizer, save_tokenizer

__all__ = [
    'TASKS',
    'ArithmeticTask',
    'Dataset',
    'Example',
    'Problems',
    'Split',
    'Task',
    'TokenRows',
    'batch_indices',
    'build_arithmetic_tokenizer',
    'encode_task',
    'read_task_file',
    'save_tokenizer',
    'split',
]
