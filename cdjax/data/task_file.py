"""A user's own task: one JSON object a line.

    {"prompt": "24+80=", "answer": 104}
    {"prompt": "24+80=", "answer": "104", "counterfactual": {"prompt": "23+81=", "answer": 104}}
    {"prompt": "24+80=", "answer": "104", "counterfactual": "31+45="}

`label` is another name for `answer`. The arithmetic files of MIB (arXiv 2504.13151) load as they
are: `prompt`, `label`, `operator`, `operand1`, `operand2`, and several counterfactuals, each an
object with its own prompt and label, as `ones_carry_counterfactual` and the like or within an
object `counterfactuals`. Keys of other names are not read.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdjax.data.dataset import Dataset
from cdjax.data.examples import Example, Expression, encode_problems
from cdjax.data.expressions import OPERATORS, SPELLINGS, parse
from cdjax.errors import InputError
from cdjax.run.json_file import parse_json

if TYPE_CHECKING:  # importing it takes as long as importing JAX
    from transformers import PreTrainedTokenizerFast

_SUFFIX = '_counterfactual'
_LINE = '{"prompt": "2+3=", "answer": 5}'


def read_task_file(
    path: str | Path,
    tokenizer: 'PreTrainedTokenizerFast',
    *,
    prompt_prefix: str = '',
    answer_tokens: int = 1,
    answer_end: str = '',
    counterfactual: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Reads and tokenizes a task file; see `examples.encode_problems`.

    The expression of a line is that of `operand1`, `operand2` and `operator`, or read off a prompt
    that ends like '24 + 80 ='.

    Args:
      path: a local file in JSON lines.
      tokenizer: of the model in use.
      prompt_prefix: text in front of each prompt and counterfactual, after BOS.
      answer_tokens: tokens of an answer at most.
      answer_end: text that ends each answer, see `examples.encode_problems`.
      counterfactual: which one to use where lines have several, such as 'ones_carry'.
      seed: of the counterfactuals that are drawn.

    Raises:
      InputError: a broken line (the message says which, and what is wrong with it), an unknown
        `counterfactual`, or nothing fits.
    """
    return encode_problems(
        read_examples(path),
        tokenizer,
        prompt_prefix=prompt_prefix,
        answer_tokens=answer_tokens,
        answer_end=answer_end,
        counterfactual=counterfactual,
        source=str(path),
        seed=seed,
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
        raise InputError(f'{place}: {error}; a line is an object such as {_LINE}') from error
    if not isinstance(values, dict):
        raise InputError(f'{place}: expected an object such as {_LINE}')
    prompt, answer = _prompt(values, place), _answer(values, place)
    if answer is None:
        raise InputError(f'{place}: no "answer" (or "label")')
    counterfactuals = {
        name: (_prompt(value, place), _answer(value, place))
        for name, value in _named_counterfactuals(values, place)
    }
    return Example(prompt, answer, _expression(values, prompt), counterfactuals, place=place)


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
