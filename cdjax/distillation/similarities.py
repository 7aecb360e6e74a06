"""How alike student and teacher are taken to be: what an alignment maximises.

A similarity of a user's own is added to `SIMILARITIES` before a study runs; flags know it by its
key then.
"""

import dataclasses
from typing import Protocol

import jax

from cdjax.registry import Registry


class Compare(Protocol):
    """Compares two sides; called within a jitted function, under `vmap` over classes too."""

    def __call__(
        self, student: jax.Array, teacher: jax.Array, where: jax.Array | None
    ) -> jax.Array:
        """Returns how alike they are, a float32 scalar, at most 1.

        Args:
            student: [N, P], those columns zero that are not compared.
            teacher: [N, Q], likewise; its gradient is stopped.
            where: [N] bool, False for rows that are not compared; all are if None.
        """


@dataclasses.dataclass(frozen=True)
class Similarity:
    """A similarity; one minus it is the loss of an alignment.

    Attributes:
        key: what flags and results know it by.
        title: its name in pages.
        compare: see `Compare`; None for what is known to the losses or to the training by its key.
    """

    key: str
    title: str
    compare: Compare | None = None

    @property
    def of_losses(self) -> str | Compare:
        """What `cdjax.losses.alignment_loss` takes."""
        return self.key if self.compare is None else self.compare


SIMILARITIES: Registry[Similarity] = Registry('similarity')
CKA = SIMILARITIES.add(Similarity('cka', 'CKA'))
SIMILARITIES.add(Similarity('procrustes', 'Procrustes similarity'))
SIMILARITIES.add(Similarity('rsa', 'RSA'))
LINEAR_MAP = SIMILARITIES.add(Similarity('linear_map', 'a learned linear map'))
# What a student does where its paired circuit is patched, see `cdjax.distillation.interchange`.
INTERCHANGE = SIMILARITIES.add(Similarity('interchange', 'interchange'))
