"""Arithmetic tasks: every problem over a range of operands, as text, as arrays and as tokens."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cdjax.data.dataset import SHOWN, Dataset, assemble
from cdjax.data.encoding import (
    check_answer_tokens,
    count_prefix,
    encode_examples,
    single_tokens,
)
from cdjax.data.expressions import (
    OPERATORS,
    SPELLINGS,
    canonical_forms,
    evaluate,
    row_ids,
    shown_in,
)
from cdjax.data.labels import answer_labels, expression_labels
from cdjax.data.splits import SHARE, TEST, Split, split
from cdjax.errors import InputError, check_seed

if TYPE_CHECKING:  # importing it takes as long as importing JAX
    from transformers import PreTrainedTokenizerFast

MAX_PROBLEMS = 1_000_000  # held in memory at once
MAX_OPERAND = 99_999
MAX_TOKEN = 999  # how far to look for the numbers that a tokenizer has one token for


@dataclass(frozen=True, eq=False)
class Problems:
    """N problems, in the order of operators first and operands second; all arrays are read-only.

    Attributes:
      operands: int64 [N, n].
      operators: int64 [N, n - 1], indices into `expressions.OPERATORS`.
      answers: int64 [N].
      carries: bool [N], some carry or borrow at the ones.
      forms: int32 [N], equal for problems of one canonical form.
      prompts: object [N], as '3+4-5='.
      left_out: how many problems of the range are not among them, by reason.
    """

    operands: np.ndarray
    operators: np.ndarray
    answers: np.ndarray
    carries: np.ndarray
    forms: np.ndarray
    prompts: np.ndarray
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.answers)


@dataclass(frozen=True)
class ArithmeticTask:
    """All problems `a op b =` or `a op b op c =` over a range; the default is the teacher's own.

    Attributes:
      operators: some of + - * / (also as × − ÷). A division must be exact at every step.
      operands: how many an expression has, 2 or 3.
      low: the smallest operand, not negative.
      high: the largest operand; each from low to high must be one token where it is encoded.
      answer_low: the smallest answer.
      answer_high: the largest answer, or None for whatever the tokenizer has one token for.
      prompt_prefix: text in front of each prompt after BOS, such as solved examples. Problems of
        the forms that it solves are left out: their answers could be read there.
      shots: solved examples behind that text, drawn from the problems, each with its `answer_end`.
      several_lengths: keep prompts of every length, and operands of several tokens; else those of
        the commonest length, whose operands are one token each.
      answer_tokens: tokens of an answer at most.
      answer_end: text that ends each answer, such as the line break behind a solved example. It
        has to be predicted too: a number is right when it ends where it should.
      num_problems: take at most so many problems, drawn at random; None takes all.
      seed: of that draw and of the counterfactuals.
    """

    operators: tuple[str, ...] = ('+', '-')
    operands: int = 3
    low: int = 0
    high: int = 19
    answer_low: int = 0
    answer_high: int | None = None
    prompt_prefix: str = ''
    shots: int = 0
    several_lengths: bool = False
    answer_tokens: int = 1
    answer_end: str = ''
    num_problems: int | None = None
    seed: int = 0

    def __post_init__(self):
        if unknown := [symbol for symbol in self.operators if symbol not in SPELLINGS]:
            raise InputError(
                f'operators: {unknown[0]!r} is unknown; choose from {" ".join(OPERATORS)}'
            )
        operators = tuple(SPELLINGS[symbol] for symbol in self.operators)
        object.__setattr__(self, 'operators', operators)
        if not operators or len(set(operators)) < len(operators):
            raise InputError(
                f'operators={",".join(operators)}: name at least one, and each of them once'
            )
        if self.operands not in (2, 3):
            raise InputError(f'operands={self.operands}: an expression has 2 or 3')
        if self.low < 0:
            raise InputError(f'low={self.low}: operands start at 0 (-1 would read as an operator)')
        if self.high < self.low:
            raise InputError(f'high={self.high} is below low={self.low}: choose {self.low} or more')
        if self.high > MAX_OPERAND:
            raise InputError(f'high={self.high}: expected at most {MAX_OPERAND}')
        if self.answer_high is not None and self.answer_high < self.answer_low:
            raise InputError(
                f'answer_high={self.answer_high} is below answer_low={self.answer_low}: choose '
                f'{self.answer_low} or more'
            )
        check_answer_tokens(self.answer_tokens)
        if self.shots < 0 or (self.shots and not self.answer_end):
            raise InputError(
                f'shots={self.shots} with answer_end={self.answer_end!r}: a number of solved '
                'examples, and the text between them, such as a line break'
            )
        if self.num_problems is not None and not 1 <= self.num_problems <= MAX_PROBLEMS:
            raise InputError(f'num_problems={self.num_problems}: expected 1 to {MAX_PROBLEMS}')
        if self.num_problems is None and self.size > MAX_PROBLEMS:
            raise InputError(
                f'{self.low} to {self.high} with {self.operands} operands makes {self.size} '
                f'problems, more than {MAX_PROBLEMS}: set num_problems to draw some of them'
            )
        check_seed(seed=self.seed)

    @property
    def size(self) -> int:
        """How many expressions the range has, before any is left out."""
        numbers = self.high - self.low + 1
        return len(self.operators) ** (self.operands - 1) * numbers**self.operands

    @property
    def prompts(self) -> tuple[str, ...]:
        """The text of every problem, with the prefix, without BOS."""
        prefix = self.prefix
        return tuple(prefix + prompt for prompt in self.problems().prompts)

    @property
    def prefix(self) -> str:
        """The text in front of every prompt: `prompt_prefix` and the solved examples."""
        if not self.shots:
            return self.prompt_prefix
        problems = self.problems()
        if self.shots >= len(problems):
            raise InputError(f'shots={self.shots} of {len(problems)} problems leave none to ask')
        rows = np.random.default_rng(self.seed).choice(len(problems), self.shots, replace=False)
        solved = [f'{problems.prompts[i]}{problems.answers[i]}{self.answer_end}' for i in rows]
        return self.prompt_prefix + ''.join(solved)

    def problems(self) -> Problems:
        """Returns the problems whose divisions are exact and whose answers are in range.

        Raises:
          InputError: there are none.
        """
        return _problems(self)

    def split(self, seed: int, *, share: float = SHARE, test: float = TEST) -> Split:
        """Splits `problems()` by canonical form; see `splits.split`."""
        return split(self.problems(), share=share, test=test, seed=seed)

    def encode(self, tokenizer: 'PreTrainedTokenizerFast') -> Dataset:
        """Tokenizes the problems; what does not fit the tokenizer is left out and counted.

        Each example is checked (`encoding.encode_examples`), and without `several_lengths` all
        prompts have one: those of any length but the commonest are left out. Counterfactuals are
        drawn from the problems that remain (`dataset.counterfactual_rows`).

        Raises:
          InputError: an operand is not one token, or nothing fits.
        """
        if not self.several_lengths:
            _check_operands(tokenizer, self.low, self.high)
        problems = self.problems()
        prompts, prefix = np.array(self.prompts, object), self.prefix
        answers = [f'{answer}{self.answer_end}' for answer in problems.answers.tolist()]
        encoding = encode_examples(tokenizer, prompts, answers, answer_tokens=self.answer_tokens)
        shown = shown_in(prefix, problems.operands, problems.operators)
        encoding.faults[shown] = SHOWN
        fits = encoding.faults == ''
        if fits.any() and not self.several_lengths:
            common = np.bincount(encoding.lengths[fits]).argmax()
            odd = fits & (encoding.lengths != common)
            encoding.faults[odd] = f'the prompt is not {common} tokens long like most'
        return assemble(
            encoding,
            prompts=prompts,
            forms=problems.forms,
            operators=row_ids(problems.operators),
            labels=lambda rows: {
                **expression_labels(problems.operators[rows], problems.carries[rows]),
                **answer_labels(problems.answers[rows]),
            },
            left_out=problems.left_out,
            seed=self.seed,
            prefix_tokens=count_prefix(tokenizer, prefix),
        )


@functools.lru_cache(maxsize=2)
def _problems(task: ArithmeticTask) -> Problems:
    rng = np.random.default_rng(task.seed)
    codes = np.arange(min(task.size, MAX_PROBLEMS))
    if task.size > MAX_PROBLEMS:
        codes = np.unique(rng.integers(task.size, size=MAX_PROBLEMS))
    n = task.operands
    numbers = task.high - task.low + 1
    digits = np.unravel_index(codes, (len(task.operators),) * (n - 1) + (numbers,) * n)
    of_task = np.array([OPERATORS.index(symbol) for symbol in task.operators])
    operators = of_task[np.stack(digits[: n - 1], 1)]
    operands = np.stack(digits[n - 1 :], 1) + task.low
    answers, exact, carries = evaluate(operands, operators)
    low = exact & (answers < task.answer_low)
    high = exact & (answers > (np.inf if task.answer_high is None else task.answer_high))
    rows = np.flatnonzero(exact & ~low & ~high)
    left_out = {
        'a division is not exact': int((~exact).sum()),
        f'the answer is below {task.answer_low}': int(low.sum()),
        f'the answer is above {task.answer_high}': int(high.sum()),
    }
    if task.num_problems is not None and task.num_problems < len(rows):
        rows = np.sort(rng.choice(rows, task.num_problems, replace=False))
    left_out['not drawn'] = task.size - len(rows) - sum(left_out.values())
    if not len(rows):
        answer_range = f'of at least {task.answer_low}'
        if task.answer_high is not None:
            answer_range = f'from {task.answer_low} to {task.answer_high}'
        raise InputError(
            f'no problem of {" ".join(task.operators)} with operands {task.low} to {task.high} has '
            f'an answer {answer_range}: widen one of the ranges'
        )
    operands, operators = operands[rows], operators[rows]
    arrays = {
        'operands': operands,
        'operators': operators,
        'answers': answers[rows],
        'carries': carries[rows],
        'forms': canonical_forms(operands, operators),
        'prompts': _texts(operands, operators),
    }
    for array in arrays.values():
        array.flags.writeable = False  # all callers share them
    counts = {reason: count for reason, count in left_out.items() if count}
    return Problems(**arrays, left_out=counts)


def _texts(operands: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Writes each problem as '3+4-5='; object [N]."""
    symbols = np.array([*OPERATORS, '='], object)
    columns = [*operators.T, np.full(len(operators), len(OPERATORS))]
    texts = np.full(len(operands), '', object)
    for numbers, signs in zip(operands.T, columns, strict=True):
        texts = texts + numbers.astype(str).astype(object) + symbols[signs]
    return texts


def _check_operands(tokenizer: 'PreTrainedTokenizerFast', low: int, high: int) -> None:
    """Raises unless every number from low to high is one token."""
    single = single_tokens(tokenizer, map(str, range(low, high + 1)))
    if len(single) == high - low + 1:
        return
    first = next(number for number in range(low, high + 1) if str(number) not in single)
    known = single_tokens(tokenizer, map(str, range(max(high, MAX_TOKEN) + 1)))
    last = next(number for number in range(len(known) + 1) if str(number) not in known) - 1
    remedy = f'choose low and high from 0 to {last}' if last >= 0 else 'it has no single numbers'
    raise InputError(
        f'operands {low} to {high}: {first} is not one token of the tokenizer in use; {remedy}, or '
        'keep prompts of several lengths (several_lengths)'
    )
