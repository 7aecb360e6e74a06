"""Encoded problems on the host, each with a counterfactual."""

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cdjax.data.encoding import Encoding
from cdjax.data.expressions import row_ids
from cdjax.data.labels import Label
from cdjax.errors import InputError

# Why a problem is left out whose answer stands in the text before every prompt.
SHOWN = 'the prompt prefix solves it'


@dataclass(frozen=True, eq=False)
class Dataset:
    """N problems as tokens; `dataset[rows]` is the data set of those rows.

    Attributes:
      tokens: int32 [N, T], BOS and prompt, padded on the right. Arithmetic prompts have one length.
      lengths: int32 [N]; the answer is read from the logits at `lengths - 1`.
      answers: int32 [N], the answer's token.
      counterfactual_tokens: int32 [N, T], a problem of equal length with another answer.
      counterfactual_answers: int32 [N], the token of that answer.
      forms: int32 [N], equal for problems of one canonical form.
      prompts: object [N], the text behind `tokens` without BOS.
      labels: each int32 [N], known structure of the problems, numbered without gaps:
        `operators` (the operators in order), `answer` (in the order of the values), `carry` (0 or
        1: any carry or borrow at the ones), `magnitude` (bins of the answer), `parity`. A task
        file has those that can be told from its lines.
      label_names: for each label, the readable name of each number.
      left_out: how many examples do not fit, by reason.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    answers: np.ndarray
    counterfactual_tokens: np.ndarray
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
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        labels = {name: values[rows] for name, values in self.labels.items()}
        return dataclasses.replace(self, **arrays, labels=labels)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of all that a result may depend on, as hexadecimal digits: all but `left_out`."""
        columns = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        columns |= {f'labels.{name}': values for name, values in sorted(self.labels.items())}
        digest = hashlib.sha256(json.dumps(self.label_names, sort_keys=True).encode())
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
      tokens: int32 [N, T].
      answers: int32 [N].
    """

    given: np.ndarray
    tokens: np.ndarray
    answers: np.ndarray


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

    Raises:
      InputError: nothing fits; the line names a first example and its reason.
    """
    faults = encoding.faults.copy()
    rows = np.flatnonzero(faults == '')
    partners = counterfactual_rows(
        encoding.lengths[rows], operators[rows], encoding.answers[rows], seed=seed
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
    tokens, answers = encoding.tokens[partners], encoding.answers[partners]
    if counterfactuals is not None:
        tokens = np.where(given[rows, None], counterfactuals.tokens[rows], tokens)
        answers = np.where(given[rows], counterfactuals.answers[rows], answers)
    T = encoding.lengths[rows].max()
    named = labels(rows)
    return Dataset(
        tokens=encoding.tokens[rows, :T],
        lengths=encoding.lengths[rows],
        answers=encoding.answers[rows],
        counterfactual_tokens=tokens[:, :T],
        counterfactual_answers=answers,
        forms=forms[rows],
        prompts=prompts[rows],
        labels={name: values for name, (values, _) in named.items()},
        label_names={name: names for name, (_, names) in named.items()},
        left_out={**left_out, **Counter(fault for fault in faults if fault)},
    )


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
