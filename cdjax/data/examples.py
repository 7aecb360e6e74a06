"""Problems as texts, whatever they come from, and the data set that they make."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cdjax.data.dataset import SHOWN, Counterfactuals, Dataset, assemble
from cdjax.data.encoding import Encoding, count_prefix, encode_examples
from cdjax.data.expressions import canonical_forms, evaluate, parse, row_ids, shown_in
from cdjax.data.labels import Label, answer_labels, expression_labels, text_labels
from cdjax.errors import InputError

if TYPE_CHECKING:  # importing it takes as long as importing JAX
    from transformers import PreTrainedTokenizerFast

Expression = tuple[tuple[int, ...], tuple[int, ...]]  # operands, operators


@dataclass(frozen=True)
class Example:
    """A problem as text: a line of a task file, or what a generated task yields.

    Attributes:
      prompt: without BOS and prefix.
      answer: as text.
      expression: operands and operators (indices into `expressions.OPERATORS`), if known.
      counterfactuals: prompt and answer by name; the answer is None where it is that of the
        problem of this prompt, or of the expression that it ends with.
      labels: further structure that is known of it, by name; all problems of a task have the same.
      place: where it comes from, for messages: file name and line number.
    """

    prompt: str
    answer: str
    expression: Expression | None = None
    counterfactuals: Mapping[str, tuple[str, str | None]] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    place: str = ''


def encode_problems(
    examples: Sequence[Example],
    tokenizer: 'PreTrainedTokenizerFast',
    *,
    prompt_prefix: str = '',
    answer_tokens: int = 1,
    answer_end: str = '',
    counterfactual: str | None = None,
    source: str = 'the task',
    seed: int = 0,
) -> Dataset:
    """Tokenizes problems; what does not fit the tokenizer is left out and counted.

    Prompts may differ in length. A prompt's canonical form is that of its expression, where it has
    one, else its own text. A problem without a counterfactual is given one of the others, as in
    `dataset.counterfactual_rows`.

    Args:
      examples: the problems.
      tokenizer: of the model in use.
      prompt_prefix: text in front of each prompt and counterfactual, after BOS. What it solves is
        left out.
      answer_tokens: tokens of an answer at most.
      answer_end: text that ends each answer, and has to be predicted too.
      counterfactual: which one to use where problems have several, such as 'ones_carry'. None
        means the one named `counterfactual`, else MIB's 'random', else the first that occurs.
      source: what the problems are from, for messages.
      seed: of the counterfactuals that are drawn.

    Raises:
      InputError: an unknown `counterfactual`, or nothing fits.
    """
    prompts = np.array([prompt_prefix + example.prompt for example in examples], object)
    answers = [example.answer for example in examples]
    encode = functools.partial(encode_examples, tokenizer, answer_tokens=answer_tokens)
    encoding = encode(prompts, [answer + answer_end for answer in answers])
    chosen = _choose_counterfactuals(examples, counterfactual, source)
    given = np.array([pair is not None for pair in chosen])
    other = encode(
        [prompt_prefix + pair[0] if pair else '' for pair in chosen],
        [pair[1] + answer_end if pair else '' for pair in chosen],
    )
    encoding = dataclasses.replace(encoding, faults=_faults(encoding, other, given))
    known, operands, operators = _expressions(examples)
    carries = evaluate(operands, operators)[2]
    encoding.faults[_shown(prompt_prefix, examples, known, operands, operators)] = SHOWN

    def labels(rows: np.ndarray) -> dict[str, Label]:
        texts = [answers[row] for row in rows]
        named = answer_labels(
            [int(text) for text in texts] if all(map(_is_integer, texts)) else texts
        )
        if known[rows].all():
            named |= expression_labels(operators[rows], carries[rows])
        for name in examples[0].labels:
            named[name] = text_labels([examples[row].labels[name] for row in rows])
        return named

    kinds = [sorted(example.labels.items()) for example in examples]

    return assemble(
        encoding,
        prompts=prompts,
        forms=_forms(examples, known, operands, operators),
        operators=row_ids(np.column_stack([operators, _numbered(kinds)])),
        labels=labels,
        left_out={},
        seed=seed,
        counterfactuals=Counterfactuals(given, other),
        prefix_tokens=count_prefix(tokenizer, prompt_prefix),
    )


def _faults(encoding: Encoding, other: Encoding, given: np.ndarray) -> np.ndarray:
    """Adds to the faults of N examples those of the counterfactuals that come with them."""
    faults = encoding.faults.copy()
    broken = given & (faults == '') & (other.faults != '')
    faults[broken] = 'its counterfactual: ' + other.faults[broken]
    lengths = lambda e: np.stack([e.lengths, e.answer_lengths], axis=1)
    longer = given & (faults == '') & (lengths(other) != lengths(encoding)).any(axis=1)
    faults[longer] = 'its counterfactual has another length'
    width = min(encoding.answers.shape[1], other.answers.shape[1])
    alike = (other.answers[:, :width] == encoding.answers[:, :width]).all(axis=1)
    same = given & (faults == '') & alike
    faults[same] = 'its counterfactual has the same answer'
    return faults


def _choose_counterfactuals(
    examples: Sequence[Example], wanted: str | None, source: str
) -> list[tuple[str, str] | None]:
    """Returns one counterfactual a line with its answer, None where it has to be drawn."""
    names = list(dict.fromkeys(name for example in examples for name in example.counterfactuals))
    if wanted is None and names:
        wanted = next((name for name in ('counterfactual', 'random') if name in names), names[0])
    elif wanted is not None and wanted not in names:
        raise InputError(
            f'{source} has no counterfactual {wanted!r}; there are {", ".join(names) or "none"}'
        )
    answers = {example.prompt: example.answer for example in examples}
    chosen = []
    for example in examples:
        prompt, answer = example.counterfactuals.get(wanted, (None, None))
        if prompt is not None and answer is None:
            answer = answers.get(prompt) or _value(prompt)
            if answer is None:
                raise InputError(
                    f'{example.place}: the answer of counterfactual {prompt!r} is not known; give '
                    '"counterfactual": {"prompt": ..., "answer": ...}'
                )
        chosen.append(None if prompt is None else (prompt, answer))
    return chosen


def _value(prompt: str) -> str | None:
    """Computes the expression that a prompt ends with, as text."""
    expression = parse(prompt)
    if expression is None:
        return None
    values, exact, _ = evaluate(*(np.array([part], np.int64) for part in expression))
    return str(values[0]) if exact[0] else None


def _expressions(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which lines have an expression, and all operands and operators padded with -1."""
    found = [example.expression or ((), ()) for example in examples]
    n = max((len(operands) for operands, _ in found), default=0)
    operands = np.full((len(found), max(n, 1)), -1, np.int64)
    operators = np.full((len(found), max(n - 1, 0)), -1, np.int64)
    for row, (numbers, signs) in enumerate(found):
        operands[row, : len(numbers)], operators[row, : len(signs)] = numbers, signs
    return np.array([example.expression is not None for example in examples]), operands, operators


def _forms(
    examples: Sequence[Example], known: np.ndarray, operands: np.ndarray, operators: np.ndarray
) -> np.ndarray:
    """Numbers the canonical forms: of the expression where it is known, else the prompt's text."""
    forms = np.zeros(len(examples), np.int32)
    forms[known] = canonical_forms(operands[known], operators[known])
    texts = [' '.join(e.prompt.split()) for e, k in zip(examples, known, strict=True) if not k]
    if texts:
        forms[~known] = known.sum() + np.unique(texts, return_inverse=True)[1]
    return forms


def _shown(
    prefix: str,
    examples: Sequence[Example],
    known: np.ndarray,
    operands: np.ndarray,
    operators: np.ndarray,
) -> np.ndarray:
    """Tells which examples a prefix solves: by their form where it is known, else word for word."""
    shown = np.array([example.prompt in prefix for example in examples])
    return np.where(known, shown_in(prefix, operands, operators), shown)


def _numbered(kinds: Sequence[list[tuple[str, str]]]) -> np.ndarray:
    """Returns a number for each, equal for equal ones, int [N]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(str(kind), len(numbers)) for kind in kinds], np.int64)


def _is_integer(text: str) -> bool:
    return text.removeprefix('-').isdecimal()
