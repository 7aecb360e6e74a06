"""What a frozen teacher says of problems, for students to learn from: read once, or when asked."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cdjax.data import Dataset
from cdjax.distillation.readings import ACTIVATIONS, READINGS
from cdjax.errors import InputError
from cdjax.inference.activations import answer_logits_and_activations
from cdjax.losses import TopKLogits
from cdjax.models import SITES, Llama, LlamaConfig
from cdjax.run.options import TOKENS_PER_PASS

Rows = slice | np.ndarray


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is stored of a teacher, whatever the problems.

    Attributes:
        layers: whose activations are kept, in ascending order; all if None.
        site: as in `Alignment`, which is going to read them.
        positions: as in `Alignment`.
        reading: as in `Alignment`; one that only writes what it reads is stored as it is read.
        outputs: whether the matrices are kept through which units write.
        top_k: tokens whose logits are kept, those of the highest; all if None.
        temperature: of the KD that is going to read them; only the top k depend on it.
    """

    layers: tuple[int, ...] | None = None
    site: str = 'neurons'
    positions: tuple[int, ...] | None = None
    reading: str = ACTIVATIONS.key
    outputs: bool = False
    top_k: int | None = None
    temperature: float = 1.0

    def of(self, teacher: LlamaConfig, dataset: Dataset) -> 'Wanted':
        """Returns it with all layers written out, checked against a shape and problems.

        Raises:
            InputError: a `top_k` above the number of tokens, positions behind a prompt's end, or a
                site whose units write by no matrix.
        """
        vocab_size = teacher.vocab_size
        if self.top_k is not None and self.top_k > vocab_size:
            raise InputError(f'top_k={self.top_k}: the teacher has {vocab_size} tokens')
        check_positions_within(self.positions, dataset)
        READINGS[self.reading].check(self.site)
        layers = range(teacher.num_layers) if self.layers is None else self.layers
        return dataclasses.replace(self, layers=tuple(sorted(set(layers))))

    def say(self, teacher: Llama, dataset: Dataset, **passes) -> tuple[Any, np.ndarray]:
        """Returns logits and activations of all problems, see `TeacherStore`."""
        return answer_logits_and_activations(
            teacher,
            dataset,
            site=self.site,
            layers=self.layers,
            positions=self.positions,
            answer_tokens=dataset.answer_tokens,
            top_k=None if self.top_k is None else (self.top_k, self.temperature),
            read=READINGS[self.reading].read,
            **passes,
        )

    def output_matrices(self, teacher: Llama) -> np.ndarray | None:
        """Returns what units write by, float32 `[len(layers), U x ..., D]`, None if not wanted."""
        return output_matrices(teacher, self.site, self.layers) if self.outputs else None


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherStore:
    """What the frozen teacher says of N problems, on the host.

    Attributes:
        logits: at the answer position, float32 `[N, V]`, of answers of several tokens `[N, A, V]`;
            or the top k of them.
        activations: `[N, len(layers), ...]` at the answer position, `[N, len(layers), F]` of
            neurons; at P positions of the prompt `[N, len(layers), P, ...]`. An array, or what is
            indexed like one.
        layers: those whose activations are stored.
        vocab_size: V.
        site: whose activations they are.
        positions: of the prompt; None for the answer position.
        reading: what was read of the units, see `cdjax.distillation.readings`.
        outputs: what units of these layers write by, see `output_matrices`; None if not kept.
        rows: int, the problems that this is about, of those that are stored; all if None.
        answer_tokens: A, the tokens of an answer whose logits are stored.
    """

    logits: Any
    activations: Any
    layers: tuple[int, ...]
    vocab_size: int
    site: str = 'neurons'
    positions: tuple[int, ...] | None = None
    reading: str = ACTIVATIONS.key
    outputs: np.ndarray | None = None
    rows: np.ndarray | None = None
    answer_tokens: int = 1

    @classmethod
    def build(
        cls,
        teacher: Llama,
        dataset: Dataset,
        *,
        mesh: Mesh | None = None,
        tokens_per_pass: int = TOKENS_PER_PASS,
        **wanted: Any,
    ) -> 'TeacherStore':
        """Runs the teacher once over all problems.

        Args:
            teacher: the teacher.
            dataset: N problems.
            mesh: the mesh; one device if None.
            tokens_per_pass: see `cdjax.inference.rows.rows_per_pass`.
            **wanted: fields of `Wanted`.

        Raises:
            InputError: what `Wanted.of` raises.
        """
        what = Wanted(**wanted).of(teacher.config, dataset)
        passes = {'mesh': mesh, 'tokens_per_pass': tokens_per_pass}
        said = what.say(teacher, dataset, description='teacher activations', **passes)
        return cls.of_rows(*said, what, teacher, dataset.answer_tokens)

    @classmethod
    def of_rows(
        cls, logits: Any, activations: Any, wanted: Wanted, teacher: Llama, answer_tokens: int = 1
    ) -> 'TeacherStore':
        """Returns the store of what a teacher has said."""
        return cls(
            logits,
            activations,
            wanted.layers,
            teacher.config.vocab_size,
            wanted.site,
            wanted.positions,
            wanted.reading,
            wanted.output_matrices(teacher),
            answer_tokens=answer_tokens,
        )

    def __len__(self) -> int:
        return len(self.activations) if self.rows is None else len(self.rows)

    def __getitem__(self, rows: Rows) -> 'TeacherStore':
        """Returns what the teacher says of some of the problems; nothing is read yet."""
        return dataclasses.replace(self, rows=self._stored(rows))

    def logits_of(self, rows: Rows) -> np.ndarray | TopKLogits:
        """Returns the logits of some of the problems."""
        stored = self._stored(rows)
        return jax.tree.map(lambda x: x[stored], self.logits)

    def of_layers(self, layers: Iterable[int], rows: Rows = slice(None)) -> np.ndarray:
        """Returns `[n, len(layers), ...]`, the activations of these layers in this order."""
        return self.activations[self._stored(rows)][:, self.places(layers)]

    def places(self, layers: Iterable[int]) -> list[int]:
        """Returns where layers stand among those that are stored."""
        return [self.layers.index(layer) for layer in layers]

    def _stored(self, rows: Rows) -> np.ndarray:
        every = np.arange(len(self.activations)) if self.rows is None else self.rows
        return every[rows]


@dataclasses.dataclass(frozen=True, eq=False)
class OnlineTeacher:
    """What a teacher says of N problems when it is asked: it runs anew for each batch.

    Like a `TeacherStore` of the same problems, to the rounding of other batches. Nothing is kept,
    which is what to choose where all of it takes more room than there is; a step then pays for the
    teacher's pass too.
    """

    teacher: Llama
    dataset: Dataset
    wanted: Wanted
    passes: dict[str, Any]
    rows: np.ndarray
    outputs: np.ndarray | None = None
    _last: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def build(
        cls, teacher: Llama, dataset: Dataset, wanted: Wanted, **passes: Any
    ) -> 'OnlineTeacher':
        """Returns a teacher that is to be asked.

        Args:
            teacher: the teacher.
            dataset: N problems.
            wanted: what it is asked for.
            **passes: `mesh` and `tokens_per_pass`.

        Raises:
            InputError: what `Wanted.of` raises.
        """
        wanted = wanted.of(teacher.config, dataset)
        every = np.arange(len(dataset))
        return cls(teacher, dataset, wanted, passes, every, wanted.output_matrices(teacher))

    layers = property(lambda self: self.wanted.layers)
    site = property(lambda self: self.wanted.site)
    positions = property(lambda self: self.wanted.positions)
    reading = property(lambda self: self.wanted.reading)
    vocab_size = property(lambda self: self.teacher.config.vocab_size)
    answer_tokens = property(lambda self: self.dataset.answer_tokens)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows) -> 'OnlineTeacher':
        """Returns what the teacher is going to say of some of the problems."""
        return dataclasses.replace(self, rows=self.rows[rows], _last={})

    def logits_of(self, rows: Rows) -> np.ndarray | TopKLogits:
        """Returns the logits of some of the problems."""
        return self._said(rows)[0]

    def of_layers(self, layers: Iterable[int], rows: Rows = slice(None)) -> np.ndarray:
        """Returns `[n, len(layers), ...]`, the activations of these layers in this order."""
        return self._said(rows)[1][:, self.places(layers)]

    def places(self, layers: Iterable[int]) -> list[int]:
        """Returns where layers stand among those that are read."""
        return [self.layers.index(layer) for layer in layers]

    def _said(self, rows: Rows) -> tuple[Any, np.ndarray]:
        """Runs the teacher, or returns what it has just said: a step asks twice."""
        asked = self.rows[rows]
        if not np.array_equal(self._last.get('rows'), asked):
            said = self.wanted.say(self.teacher, self.dataset[asked], **self.passes)
            self._last.update(rows=asked, said=said)
        return self._last['said']


def output_matrices(model: Llama, site: str, layers: Iterable[int]) -> np.ndarray:
    """Returns the matrices by which units write into the residual stream.

    Args:
        model: the model.
        site: one that has such a matrix, see `cdjax.models.Site.output`.
        layers: L' of its layers.

    Returns:
        float32 `[L', U x coordinates of a unit, D]`, on the host.
    """
    weight_LxUxD = stacked_output(model, site)
    chosen = weight_LxUxD[np.asarray(list(layers), int)]
    return np.asarray(jax.device_get(chosen), np.float32)


def stacked_output(model: Llama, site: str) -> jax.Array:
    """Returns those of all layers, `[L, U x coordinates, D]`, as the model holds them."""
    module = getattr(model.layers, SITES[site].module)
    return getattr(module, SITES[site].output).weight[...]


def check_positions_within(positions: tuple[int, ...] | None, dataset: Dataset) -> None:
    """Raises InputError for positions that some prompt does not have."""
    first, stop = dataset.common_columns
    if positions is not None and not first <= min(positions) <= max(positions) < stop:
        raise InputError(
            f'align_positions={",".join(map(str, positions))}: the shortest prompt has '
            f'{stop - first} tokens, name positions from {first} to {stop - 1}'
        )
