"""Encoded problems on the host, each with a counterfactual."""

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cdjax.data.encoding import NO_TOKEN, Encoding
from cdjax.data.expressions import row_ids
from cdjax.data.labels import Label
from cdjax.data.token_rows import TokenRows, align
from cdjax.errors import InputError

# Why a problem is left out whose answer stands in the text before every prompt.
SHOWN = 'the prompt prefix solves it'


@dataclass(frozen=True, eq=False)
class Dataset:
    """N problems as tokens; `dataset[rows]` is the data set of those rows.

    Attributes:
      tokens: int32 [N, T], BOS and prompt; `TokenRows` where prompts or answers differ in length,
        or follow a prefix, aligned so that all answers begin behind one column. Where answers
        have several tokens, all but the last follow the prompt, to go on from.
      lengths: int32 [N], columns up to the answer; its first token is read from the logits at
        `lengths - 1`.
      answers: int32 [N], the answer's token; where some have several, [N, A], NO_TOKEN behind
        shorter ones.
      counterfactual_tokens: like `tokens`, a problem of equal length with another answer, of as
        many tokens.
      counterfactual_answers: like `answers`, of that problem.
      forms: int32 [N], equal for problems of one canonical form.
      prompts: object [N], the text of each prompt without BOS.
      labels: each int32 [N], known structure of the problems, numbered without gaps:
        `operators` (the operators in order), `answer` (in the order of the values), `carry` (0 or
        1: any carry or borrow at the ones), `magnitude` (bins of the answer), `parity`. A task
        file has those that can be told from its lines.
      label_names: for each label, the readable name of each number.
      left_out: how many examples do not fit, by reason.
    """

    tokens: np.ndarray | TokenRows
    lengths: np.ndarray
    answers: np.ndarray
    counterfactual_tokens: np.ndarray | TokenRows
    counterfactual_answers: np.ndarray
    forms: np.ndarray
    prompts: np.ndarray
    labels: dict[str, np.ndarray]
    label_names: dict[str, tuple[str, ...]]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: np.ndarray | slice | list[int]) -> 'Dataset':
        """Returns the chosen rows (a slice, indices or a boolean mask) with all their columns."""
        arrays = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray | TokenRows)
        }
        labels = {name: values[rows] for name, values in self.labels.items()}
        return dataclasses.replace(self, **arrays, labels=labels)

    @property
    def prefix(self) -> tuple[int, ...]:
        """The tokens in front of every row of `tokens`, BOS among them; none where rows have it."""
        return self.tokens.prefix if isinstance(self.tokens, TokenRows) else ()

    @property
    def answer_ids(self) -> np.ndarray:
        """A number for each problem, equal for equal answers, int [N]: of one token, the token."""
        return self.answers if self.answers.ndim == 1 else row_ids(self.answers)

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer that there is room for."""
        return 1 if self.answers.ndim == 1 else self.answers.shape[1]

    @property
    def prompt_columns(self) -> int:
        """Columns of `tokens` that are of prompts; behind them stand answers to go on from."""
        return int(self.lengths.max(initial=0))

    @property
    def prompt_sizes(self) -> np.ndarray:
        """How many tokens each prompt has, int [N]: rows that are aligned may start later."""
        return self.lengths - (self.tokens.starts if isinstance(self.tokens, TokenRows) else 0)

    @property
    def common_columns(self) -> tuple[int, int]:
        """The first of the columns that are of every prompt, and the one behind their last."""
        starts = self.tokens.starts if isinstance(self.tokens, TokenRows) else [0]
        return int(max(starts)), int(self.lengths.min())

    def require_single_answers(self, what: str) -> None:
        """Raises InputError where answers have several tokens, for what knows only one."""
        if self.answers.ndim > 1:
            raise InputError(
                f'{what} knows answers of one token, and some here have up to '
                f'{self.answer_tokens}: set answer_tokens=1 and leave answer_end out'
            )

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of all that a result may depend on, as hexadecimal digits: all but `left_out`."""
        columns, names = {}, {'labels': self.label_names}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, TokenRows):
                parts = ('tokens', 'starts', 'stops')
                columns |= {f'{field.name}.{part}': getattr(value, part) for part in parts}
                names[field.name] = value.prefix
            elif isinstance(value, np.ndarray):
                columns[field.name] = value
        columns |= {f'labels.{name}': values for name, values in sorted(self.labels.items())}
        # Of rows of one length the names are those of the labels, as ever.
        names = names if len(names) > 1 else self.label_names
        digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode())
        for name, values in columns.items():
            is_text = values.dtype.hasobject
            digest.update(f'{name} {values.shape} '.encode())
            digest.update(
                json.dumps(values.tolist()).encode()
                if is_text
                else np.ascontiguousarray(values, '<i4').tobytes()
            )
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Counterfactuals that come with the problems, for the rows where `given` is True.

    Attributes:
      given: bool [N].
      encoding: of N examples, with their tokens and answers.
    """

    given: np.ndarray
    encoding: Encoding


def assemble(
    encoding: Encoding,
    *,
    prompts: np.ndarray,
    forms: np.ndarray,
    operators: np.ndarray,
    labels: Callable[[np.ndarray], dict[str, Label]],
    left_out: dict[str, int],
    seed: int,
    counterfactuals: Counterfactuals | None = None,
    prefix_tokens: int = 0,
) -> Dataset:
    """Makes a data set of the examples that fit, and counts the others by reason.

    Args:
      encoding: N examples with their faults.
      prompts: object [N], texts.
      forms: int [N], canonical forms.
      operators: int [N], kinds of problems; see `counterfactual_rows`.
      labels: returns the labels of the rows that it is given.
      left_out: what has been left out before, by reason.
      seed: of the counterfactuals that are drawn.
      counterfactuals: those that need not be drawn.
      prefix_tokens: tokens of the text that all prompts begin with; what of them all rows share is
        the prefix of the data set.

    Raises:
      InputError: nothing fits; the line names a first example and its reason.
    """
    faults = encoding.faults.copy()
    rows = np.flatnonzero(faults == '')
    sizes = row_ids(np.stack([encoding.lengths, encoding.answer_lengths], 1))
    partners = counterfactual_rows(
        sizes[rows], operators[rows], row_ids(encoding.answers[rows]), seed=seed
    )
    given = np.zeros(len(faults), bool) if counterfactuals is None else counterfactuals.given
    usable = given[rows] | (partners >= 0)
    faults[rows[~usable]] = 'no other problem has the same length and another answer'
    if not usable.any():
        raise InputError(
            f'no example fits the tokenizer in use: the first, {prompts[0]!r}, is left out because '
            f'{faults[0]}'
        )
    rows, partners = rows[usable], rows[partners[usable]]
    lengths, sizes = encoding.lengths[rows], encoding.answer_lengths[rows]
    T, A = lengths.max(), sizes.max()
    whole, answers = encoding.tokens[rows, :T], encoding.answers[rows, :A]
    others, other_answers = encoding.tokens[partners, :T], encoding.answers[partners, :A]
    if counterfactuals is not None:
        theirs = counterfactuals.encoding
        fits = given[rows, None]
        others = np.where(fits, _widened(theirs.tokens, T, 0)[rows], others)
        other_answers = np.where(fits, _widened(theirs.answers, A, NO_TOKEN)[rows], other_answers)
    shared = np.concatenate([whole, others])[:, :prefix_tokens]
    prefix = tuple(shared[0, np.logical_and.accumulate((shared == shared[:1]).all(0))].tolist())
    named = labels(rows)
    flat = lambda ids: ids[:, 0] if A == 1 else ids
    return Dataset(
        tokens=align(whole, lengths, answers, sizes, prefix=prefix),
        lengths=np.full(len(rows), T - len(prefix), np.int32),
        answers=flat(answers),
        counterfactual_tokens=align(others, lengths, other_answers, sizes, prefix=prefix),
        counterfactual_answers=flat(other_answers),
        forms=forms[rows],
        prompts=prompts[rows],
        labels={name: values for name, (values, _) in named.items()},
        label_names={name: names for name, (_, names) in named.items()},
        left_out={**left_out, **Counter(fault for fault in faults if fault)},
    )


def _widened(array: np.ndarray, width: int, value: int) -> np.ndarray:
    """Returns the first columns of an array [N, W], filled up with a value to that many."""
    wide = np.full((len(array), width), value, array.dtype)
    wide[:, : array.shape[1]] = array[:, :width]
    return wide


def counterfactual_rows(
    lengths: np.ndarray, operators: np.ndarray, answers: np.ndarray, *, seed: int
) -> np.ndarray:
    """Draws for each problem another one of equal length, with another answer.

    Args:
      lengths: int [N], tokens.
      operators: int [N], the kind of problem to prefer.
      answers: int [N].
      seed: the draw is a function of the arrays and of this number.

    Returns:
      int64 [N], a row for each, of the same operators where there is one; -1 where none fits.
    """
    rng = np.random.default_rng(seed)
    rows = np.full(len(answers), -1, np.int64)
    for groups in (np.stack([lengths, operators], 1), lengths[:, None]):
        drawn = _others(row_ids(groups), answers, rng)
        rows = np.where(rows < 0, drawn, rows)
    return rows


def _others(groups: np.ndarray, answers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws uniformly from the members of a row's group with another answer, or -1."""
    order = np.lexsort((answers, groups))
    group, answer = groups[order], answers[order]
    start, stop = np.searchsorted(group, group), np.searchsorted(group, group, 'right')
    # Within a sorted group, equal answers are one run: draw from what lies before and after it.
    run = row_ids(np.stack([group, answer], 1))
    first, last = np.searchsorted(run, run), np.searchsorted(run, run, 'right')
    choices = (stop - start) - (last - first)
    drawn = start + (rng.random(len(order)) * choices).astype(np.int64)
    drawn = np.where(drawn >= first, drawn + (last - first), drawn)
    rows = np.empty(len(order), np.int64)
    rows[order] = np.where(choices > 0, order[np.minimum(drawn, len(order) - 1)], -1)
    return rows
