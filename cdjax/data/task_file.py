"""A user's own task: one JSON object a line.

    {"prompt": "24+80=", "answer": 104}
    {"prompt": "24+80=", "answer": "104", "counterfactual": {"prompt": "23+81=", "answer": 104}}
    {"prompt": "24+80=", "answer": "104", "counterfactual": "31+45="}

`label` is another name for `answer`. The arithmetic files of MIB (arXiv 2504.13151) load as they
are: `prompt`, `label`, `operator`, `operand1`, `operand2`, and several counterfactuals, each an
object with its own prompt and label, as `ones_carry_counterfactual` and the like or within an
object `counterfactuals`. Keys of other names are not read.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from cdjax.data.dataset import SHOWN, Counterfactuals, Dataset, assemble
from cdjax.data.encoding import Encoding, encode_examples
from cdjax.data.expressions import (
    OPERATORS,
    SPELLINGS,
    canonical_forms,
    evaluate,
    parse,
    row_ids,
    shown_in,
)
from cdjax.data.labels import Label, answer_labels, expression_labels
from cdjax.errors import InputError
from cdjax.run.json_file import parse_json

_SUFFIX = '_counterfactual'

Expression = tuple[tuple[int, ...], tuple[int, ...]]  # operands, operators


@dataclass(frozen=True)
class Example:
    """One line of a task file.

    Attributes:
      prompt: without BOS and prefix.
      answer: as text.
      expression: operands and operators (indices into `expressions.OPERATORS`), if known.
      counterfactuals: prompt and answer by name; the answer is None where the line has none.
      place: file name and line number, for messages.
    """

    prompt: str
    answer: str
    expression: Expression | None
    counterfactuals: Mapping[str, tuple[str, str | None]]
    place: str


def read_task_file(
    path: str | Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    prompt_prefix: str = '',
    counterfactual: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Reads and tokenizes a task file; what does not fit the tokenizer is left out and counted.

    Prompts may differ in length: the tokens are padded on the right. A prompt's canonical form is
    that of its expression (from `operand1`, `operand2` and `operator`, or read off a prompt that
    ends like '24 + 80 ='), else its own text. A line without a counterfactual is given one of the
    file's other problems, as in `dataset.draw_counterfactuals`.

    Args:
      path: a local file in JSON lines.
      tokenizer: of the model in use.
      prompt_prefix: text in front of each prompt and counterfactual, after BOS. What it solves is
        left out.
      counterfactual: which one to use where lines have several, such as 'ones_carry'. None means
        the key `counterfactual` itself, else MIB's 'random', else the first that occurs.
      seed: of the counterfactuals that are drawn.

    Raises:
      InputError: a broken line (the message says which, and what is wrong with it), an unknown
        `counterfactual`, or nothing fits.
    """
    examples = read_examples(path)
    prompts = np.array([prompt_prefix + example.prompt for example in examples], object)
    answers = [example.answer for example in examples]
    encoding = encode_examples(tokenizer, prompts, answers)
    chosen = _choose_counterfactuals(examples, counterfactual, path)
    given = np.array([pair is not None for pair in chosen])
    other = encode_examples(
        tokenizer,
        [prompt_prefix + pair[0] if pair else '' for pair in chosen],
        [pair[1] if pair else '' for pair in chosen],
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
        return named

    T = encoding.tokens.shape[1]
    tokens = np.zeros_like(encoding.tokens)
    tokens[:, : min(T, other.tokens.shape[1])] = other.tokens[:, :T]
    return assemble(
        encoding,
        prompts=prompts,
        forms=_forms(examples, known, operands, operators),
        operators=row_ids(operators),
        labels=labels,
        left_out={},
        seed=seed,
        counterfactuals=Counterfactuals(given, tokens, other.answers),
    )


def read_examples(path: str | Path) -> list[Example]:
    """Reads the lines of a task file, without any tokenizer or model.

    Raises:
      InputError: no such file, a file without lines, or a broken line, by file and number.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f'task file {path} cannot be read ({error.strerror}): give a local file of JSON lines'
        ) from error
    examples = [
        _example(line, f'{path}, line {number}')
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not examples:
        raise InputError(f'task file {path} has no lines: expected one JSON object a line')
    return examples


def _example(line: bytes, place: str) -> Example:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise InputError(f'{place}: {error}') from error
    if not isinstance(values, dict):
        raise InputError(f'{place}: expected an object such as {{"prompt": "2+3=", "answer": 5}}')
    prompt, answer = _prompt(values, place), _answer(values, place)
    if answer is None:
        raise InputError(f'{place}: no "answer" (or "label")')
    counterfactuals = {
        name: (_prompt(value, place), _answer(value, place))
        for name, value in _named_counterfactuals(values, place)
    }
    return Example(prompt, answer, _expression(values, prompt), counterfactuals, place)


def _faults(encoding: Encoding, other: Encoding, given: np.ndarray) -> np.ndarray:
    """Adds to the faults of N examples those of the counterfactuals that come with them."""
    faults = encoding.faults.copy()
    broken = given & (faults == '') & (other.faults != '')
    faults[broken] = 'its counterfactual: ' + other.faults[broken]
    longer = given & (faults == '') & (other.lengths != encoding.lengths)
    faults[longer] = 'its counterfactual has another length'
    same = given & (faults == '') & (other.answers == encoding.answers)
    faults[same] = 'its counterfactual has the same answer'
    return faults


def _prompt(values: Mapping[str, Any], place: str) -> str:
    prompt = values.get('prompt')
    if not isinstance(prompt, str) or not prompt:
        raise InputError(f'{place}: "prompt" is {json.dumps(prompt)}; expected a text')
    _check_text(prompt, place)
    return prompt


def _check_text(text: str, place: str) -> None:
    """Raises InputError for half of a character: JSON can write one, UTF-8 and tokens cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f'{place}: {json.dumps(text)} is no text ({error.reason})') from error


def _answer(values: Mapping[str, Any], place: str) -> str | None:
    """Returns the answer as text, None where there is none."""
    given = {key: values[key] for key in ('answer', 'label') if values.get(key) is not None}
    for key, answer in given.items():
        if isinstance(answer, bool) or not isinstance(answer, int | str) or answer == '':
            raise InputError(f'{place}: "{key}" is {json.dumps(answer)}; expected text or integer')
    texts = {str(answer) for answer in given.values()}
    if len(texts) > 1:
        raise InputError(f'{place}: "answer" and "label" differ; give one of them')
    for text in texts:
        _check_text(text, place)
    return texts.pop() if texts else None


def _named_counterfactuals(
    values: Mapping[str, Any], place: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields each counterfactual of a line as an object; a mere prompt becomes one."""
    several = values.get('counterfactuals') or {}
    if not isinstance(several, dict):
        raise InputError(f'{place}: "counterfactuals" must be an object of named counterfactuals')
    suffixed = {key.removesuffix(_SUFFIX): values[key] for key in values if key.endswith(_SUFFIX)}
    own = {'counterfactual': values.get('counterfactual')}
    for name, value in {**own, **several, **suffixed}.items():
        if isinstance(value, str):
            value = {'prompt': value}
        if isinstance(value, dict):
            yield name.removesuffix(_SUFFIX), value
        elif value is not None:
            raise InputError(
                f'{place}: counterfactual "{name}" is {json.dumps(value)}; expected a prompt or an '
                'object with "prompt" and "answer"'
            )


def _expression(values: Mapping[str, Any], prompt: str) -> Expression | None:
    """Takes the expression from its own keys where they are there, else from the prompt."""
    operands = (values.get('operand1'), values.get('operand2'))
    operator = SPELLINGS.get(str(values.get('operator')))
    if operator and all(type(operand) is int and 0 <= operand < 10**9 for operand in operands):
        return operands, (OPERATORS.index(operator),)
    return parse(prompt)


def _choose_counterfactuals(
    examples: list[Example], wanted: str | None, path: str | Path
) -> list[tuple[str, str] | None]:
    """Returns one counterfactual a line with its answer, None where it has to be drawn."""
    names = list(dict.fromkeys(name for example in examples for name in example.counterfactuals))
    if wanted is None and names:
        wanted = next((name for name in ('counterfactual', 'random') if name in names), names[0])
    elif wanted is not None and wanted not in names:
        raise InputError(
            f'{path} has no counterfactual {wanted!r}; its lines have {", ".join(names) or "none"}'
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


def _expressions(examples: list[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which lines have an expression, and all operands and operators padded with -1."""
    found = [example.expression or ((), ()) for example in examples]
    n = max((len(operands) for operands, _ in found), default=0)
    operands = np.full((len(found), max(n, 1)), -1, np.int64)
    operators = np.full((len(found), max(n - 1, 0)), -1, np.int64)
    for row, (numbers, signs) in enumerate(found):
        operands[row, : len(numbers)], operators[row, : len(signs)] = numbers, signs
    return np.array([example.expression is not None for example in examples]), operands, operators


def _forms(
    examples: list[Example], known: np.ndarray, operands: np.ndarray, operators: np.ndarray
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
    examples: list[Example],
    known: np.ndarray,
    operands: np.ndarray,
    operators: np.ndarray,
) -> np.ndarray:
    """Tells which examples a prefix solves: by their form where it is known, else word for word."""
    shown = np.array([example.prompt in prefix for example in examples])
    return np.where(known, shown_in(prefix, operands, operators), shown)


def _is_integer(text: str) -> bool:
    return text.removeprefix('-').isdecimal()
