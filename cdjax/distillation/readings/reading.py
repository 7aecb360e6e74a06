"""What is read of the units of a site before student and teacher are compared."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax

from cdjax.errors import InputError
from cdjax.inference.activations import answer_activations
from cdjax.models import SITES, Llama


class Read(Protocol):
    """Reads a batch; called within a jitted function."""

    def __call__(
        self,
        model: Llama,
        tokens: jax.Array,
        lengths: jax.Array,
        *,
        site: str,
        layers: tuple[int, ...] | None = None,
        positions: tuple[int, ...] | None = None,
        answer_tokens: int = 1,
        **options,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits `[B, V]` and one number for each coordinate, `[B, L', (P,) U, ...]`.

        Arguments, and the logits of answers of several tokens, are those of
        `cdjax.inference.activations.answer_activations`.
        """


@dataclasses.dataclass(frozen=True)
class Reading:
    """What of its units a site is compared by.

    Attributes:
        key: what flags and results know it by.
        title: what it is, for messages and pages.
        read: see `Read`.
        written: whether, instead of what the units hold, the sum of what they write into the
            residual stream is compared: `(m ⊙ a) W`, a vector of the model's width. Units of any
            number and basis that write the same are equal then.
    """

    key: str
    title: str
    read: Callable[..., tuple[jax.Array, jax.Array]] = answer_activations
    written: bool = False

    def check(self, site: str) -> None:
        """Raises InputError where units of a site have nothing of that kind."""
        if self.written and SITES[site].output is None:
            writing = ', '.join(key for key, found in SITES.items() if found.output is not None)
            raise InputError(
                f'align_reading={self.key} is of units that write into the residual stream by a '
                f'matrix, and align_site={site} has none: choose from {writing}'
            )
