"""What is compared between a student and its teacher, and how."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.distillation.pairs import LayerPairs, layer_of, unit_of
from cdjax.distillation.rare_classes import USUALLY, batch_with_enough
from cdjax.distillation.readings import ACTIVATIONS, READINGS
from cdjax.distillation.similarities import CKA, INTERCHANGE, SIMILARITIES
from cdjax.errors import InputError
from cdjax.losses import ActivationPair, RowMemory
from cdjax.losses.cka import MIN_ROWS
from cdjax.losses.numerics import float32, product
from cdjax.models import SITES, LlamaConfig
from cdjax.parallel.mesh import one_device, split_neurons

# Names of positions, which `cdjax.distillation.positions.locate` finds in the problems.
ANSWER, OPERANDS, QUESTION = NAMED_POSITIONS = ('answer', 'operands', 'question')


_STATIC = {'static': True}  # part of what is compiled, no argument of it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alignment:
    """What is compared: which activations of which layers, of which problems and units, and how.

    A pytree whose leaves are the classes and the masks, so that a step takes it as an argument and
    alignments of one shape run under one compilation. `cdjax.losses.ActivationPair` is what
    becomes of one layer pair in a batch: the arrays alone, for losses know nothing of models.

    Attributes:
        pairs: `((student layer, teacher layer), ...)`, or of single heads, see
            `cdjax.distillation.pairs`; such have no masks.
        classes: int `[N]`, the class of each problem: problems are compared within each class, and
            only the units of its masks. None: all problems, all units.
        teacher_masks: `[K, L, U]`, the units of each class in the teacher; all of them if None.
        student_masks: `[K, L, U]` in the student; None for a student from nothing, which has no
            circuits yet.
        teacher_rows: int `[N]`, the problem whose activations in the teacher each problem is
            compared with; its own if None.
        site: whose activations, a key of `cdjax.models.SITES`.
        positions: along the prompt, 0 for its first token; an activation is then all of them beside
            each other. None: the answer position, the last of each prompt. One of
            `NAMED_POSITIONS` until the problems are known.
        similarity: a key of `cdjax.distillation.similarities.SIMILARITIES`.
        reading: what of the units is compared, a key of `cdjax.distillation.readings.READINGS`.
        min_count: a class of fewer problems in a batch is left out, and counted.
        memory: past problems of each class that are compared with those of the batch; of CKA
            within classes alone.
        num_classes: K; that of the masks or the classes if None, and None without any.
    """

    pairs: LayerPairs = dataclasses.field(default=(), metadata=_STATIC)
    classes: np.ndarray | None = None
    teacher_masks: np.ndarray | jax.Array | None = None
    student_masks: np.ndarray | jax.Array | None = None
    teacher_rows: np.ndarray | None = None
    site: str = dataclasses.field(default='neurons', metadata=_STATIC)
    positions: tuple[int, ...] | str | None = dataclasses.field(default=None, metadata=_STATIC)
    similarity: str = dataclasses.field(default=CKA.key, metadata=_STATIC)
    reading: str = dataclasses.field(default=ACTIVATIONS.key, metadata=_STATIC)
    min_count: int = dataclasses.field(default=MIN_ROWS, metadata=_STATIC)
    memory: int = dataclasses.field(default=0, metadata=_STATIC)
    num_classes: int | None = dataclasses.field(default=None, metadata=_STATIC)

    def __post_init__(self):
        SITES[self.site]  # an unknown one is refused
        READINGS[self.reading].check(self.site)
        SIMILARITIES[self.similarity]
        if self.min_count < MIN_ROWS:
            raise InputError(f'min_count={self.min_count}: at least {MIN_ROWS} are compared')
        if self.memory < 0:
            raise InputError(f'row_memory={self.memory} must not be negative')
        if isinstance(self.positions, str):
            if self.positions not in NAMED_POSITIONS:
                known = ', '.join(NAMED_POSITIONS)
                raise InputError(
                    f'align_positions={self.positions}: write {known}, or integers such as 1,3'
                )
        elif self.positions is not None and (not self.positions or min(self.positions) < 0):
            raise InputError(
                f'align_positions={",".join(map(str, self.positions))}: name positions from 0 on, '
                'or none for that of the answer'
            )
        if self.num_classes is None and self.classes is not None:
            masks = self.teacher_masks if self.teacher_masks is not None else self.student_masks
            K = len(masks) if masks is not None else int(np.max(self.classes)) + 1
            object.__setattr__(self, 'num_classes', K)
        if self.of_units and (self.teacher_masks is not None or self.student_masks is not None):
            raise InputError('pairs of single heads leave masks nothing to choose: pair layers')

    @property
    def student_layers(self) -> tuple[int, ...]:
        """The student's layer of each pair."""
        return tuple(layer_of(student) for student, _ in self.pairs)

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """The teacher's layer of each pair."""
        return tuple(layer_of(teacher) for _, teacher in self.pairs)

    @property
    def student_units(self) -> tuple[int | None, ...]:
        """The unit of each pair that alone is compared in the student, None where all are."""
        return tuple(unit_of(student) for student, _ in self.pairs)

    @property
    def teacher_units(self) -> tuple[int | None, ...]:
        """The unit of each pair that alone is compared in the teacher, None where all are."""
        return tuple(unit_of(teacher) for _, teacher in self.pairs)

    @property
    def of_units(self) -> bool:
        """Whether single units are paired rather than layers."""
        return any(unit is not None for unit in self.student_units)

    @property
    def of_neurons(self) -> bool:
        """Whether neurons are compared, which are what circuits are made of."""
        return self.site == 'neurons'

    @property
    def written(self) -> bool:
        """Whether what units write is compared, rather than what they hold."""
        return READINGS[self.reading].written

    @property
    def stored(self) -> str:
        """The reading that a store of the teacher is made by: what units write follows from it."""
        same = READINGS[self.reading].read is READINGS[ACTIVATIONS.key].read
        return ACTIVATIONS.key if same else self.reading

    @property
    def interchange(self) -> bool:
        """Whether what a patch of the circuits does is compared, rather than activations."""
        return self.similarity == INTERCHANGE.key

    def check_memory(self, microbatches: int) -> None:
        """Raises InputError where a memory of past problems is asked for that cannot be kept."""
        if self.memory and self.similarity != CKA.key:
            raise InputError(
                f'row_memory={self.memory} is for similarity=cka, not {self.similarity}: leave out '
                'one of the two'
            )
        if self.memory and microbatches > 1:
            raise InputError(
                f'row_memory={self.memory} needs the whole batch at once: leave out microbatches'
            )

    def check_batch(
        self, batch_size: int, *, microbatches: int = 1, devices: int = 1
    ) -> str | None:
        """Returns a warning where a class has too few problems in a batch on average, else None.

        Args:
            batch_size: problems of a step.
            microbatches: parts of it, each of which is compared by itself.
            devices: over which each part is split.

        Raises:
            InputError: that holds of all of them.
        """
        if self.classes is None or self.memory or self.interchange:
            return None
        counts, at_once = np.bincount(self.classes), batch_size // microbatches
        counts = counts[counts > 0]
        rare = counts[counts * at_once < self.min_count * len(self.classes)]
        if not len(rare):
            return None
        parts = f' in {microbatches} microbatches' if microbatches > 1 else ''
        where = f'batch_size={batch_size}{parts}: '
        few = f'on average fewer than {self.min_count} problems in what is compared at once'
        remedy = self._remedy(rare.min(), microbatches, devices)
        if len(rare) == len(counts):
            raise InputError(f'{where}every class has {few}, and little would be aligned: {remedy}')
        return (
            f'{where}{len(rare)} of {self.num_classes} classes have {few}, and are left out of the '
            f'alignment where they do: {remedy}'
        )

    def _remedy(self, rarest: int, microbatches: int, devices: int) -> str:
        """Returns what to do about a class of so few problems."""
        problems = len(self.classes)
        enough = batch_with_enough(
            rarest,
            problems,
            self.min_count,
            microbatches=microbatches,
            multiple=microbatches * devices,
        )
        if enough is None:
            fewer = 'fewer classes or microbatches' if microbatches > 1 else 'fewer classes'
            remedy = (
                f'the rarest has {rarest} of {problems:,} problems, too few for any batch of them; '
                f'take a larger share, {fewer}'
            )
        else:
            remedy = (
                f'take batch_size={enough}, and the rarest has them {100 * USUALLY:.0f} % of the '
                'time'
            )
        can_remember = self.similarity == CKA.key and microbatches == 1
        return f'{remedy}, or a row memory' if can_remember else remedy

    def placed(self, mesh: Mesh | None = None) -> 'Alignment':
        """Returns the alignment as a step takes it.

        Its masks are those of the pairs, float32 `[K, pairs, U]` on the mesh (one device if None);
        it is without the classes, which come with each batch, and without the teacher's rows.
        """
        mesh = one_device() if mesh is None else mesh

        def of_pairs(masks, layers):
            masks = None if masks is None else np.asarray(masks[:, list(layers)], np.float32)
            return split_neurons(masks, mesh)

        return dataclasses.replace(
            self,
            classes=None,
            teacher_rows=None,
            teacher_masks=of_pairs(self.teacher_masks, self.teacher_layers),
            student_masks=of_pairs(self.student_masks, self.student_layers),
        )

    def activation_pairs(
        self,
        student: jax.Array,
        teacher: jax.Array,
        classes: jax.Array | None = None,
        memories: Iterable[RowMemory] = (),
        *,
        outputs: jax.Array | None = None,
        projections: Iterable[jax.Array] = (),
        layers: tuple[int, ...] | None = None,
    ) -> list[ActivationPair]:
        """Returns what is compared of a batch, one for each layer pair.

        Called on an alignment that was `placed`.

        Args:
            student: `[B, L', ...]`, activations of `layers`.
            teacher: `[B, pairs, ...]`, those of the paired layers, or units alone; where it is
                compared what units write, that, as a `Target` has it.
            classes: int `[B]`, where problems have any.
            memories: past problems of each pair, if any are kept.
            outputs: `[L, U x ..., D]`, what the student's units write by, where that is compared.
            projections: the learned map of each pair, where it is compared by one.
            layers: of the student that `student` holds; all of them if None.
        """
        assignments = None if classes is None else jax.nn.one_hot(classes, self.num_classes)
        memories = list(memories) or [None] * len(self.pairs)
        projections = list(projections) or [None] * len(self.pairs)
        flat = lambda rows: rows.reshape(len(rows), -1)

        def side(activations, masks, i):
            masks = None if masks is None else self.over_features(masks[:, i], activations.shape)
            return flat(activations), masks

        compared = []
        for i, layer in enumerate(self.student_layers):
            place = layer if layers is None else layers.index(layer)
            unit = self.student_units[i]
            own = self.of_unit(student[:, place], unit)
            if self.written:
                masks = self.student_masks
                masks = None if masks is None else product('bk,ku->bu', assignments, masks[:, i])
                x = flat(self.write(own, masks, outputs[layer], self.site, unit))
                y, x_masks, y_masks = flat(teacher[:, i]), None, None
            else:
                x, x_masks = side(own, self.student_masks, i)
                y, y_masks = side(teacher[:, i], self.teacher_masks, i)
            compared.append(
                ActivationPair(x, y, assignments, x_masks, y_masks, memories[i], projections[i])
            )
        return compared

    def of_unit(self, activations: jax.Array, unit: int | None) -> jax.Array:
        """Returns activations `[B, (P,) U, ...]` of one unit alone, U being 1; of all if None."""
        if unit is None:
            return activations
        behind = (slice(None),) * (len(SITES[self.site].axes) - 1)
        return activations[(..., slice(unit, unit + 1), *behind)]

    def of_teacher(self, activations: np.ndarray) -> np.ndarray:
        """Returns those of the paired units of `[B, pairs, ...]`, the teacher's paired layers."""
        if not self.of_units:
            return activations
        own = [self.of_unit(activations[:, i], unit) for i, unit in enumerate(self.teacher_units)]
        return np.stack(own, axis=1)

    @staticmethod
    def write(
        activations: jax.Array,
        masks: jax.Array | None,
        output: jax.Array,
        site: str,
        unit: int | None = None,
    ) -> jax.Array:
        """Returns what units write into the residual stream, `(m ⊙ a) W`, float32 `[B, (P,) D]`.

        Args:
            activations: `[B, (P,) U, ...]`.
            masks: `[B, U]`, the units of each row that count; all if None.
            output: `[U x ..., D]`, W.
            site: whose units they are.
            unit: the one that the activations are of alone; None where they are of all.
        """
        behind = len(SITES[site].axes) - 1
        if masks is not None:
            between = activations.ndim - 2 - behind
            shape = (len(masks), *(1,) * between, -1, *(1,) * behind)
            activations = activations * masks.reshape(shape).astype(activations.dtype)
        if behind:
            activations = activations.reshape(*activations.shape[: -1 - behind], -1)
        if unit is not None:
            width = activations.shape[-1]
            output = output[unit * width : (unit + 1) * width]
        return product('...u,ud->...d', *float32(activations, output))

    def over_features(self, masks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Returns masks `[K, U]` of units over the features of activations `[B, (P,) U, ...]`.

        A unit of several coordinates, such as a head, is in or out as a whole, at all positions.
        """
        if masks.shape[1:] == shape[1:]:
            return masks
        behind = len(SITES[self.site].axes) - 1
        masks = masks.reshape(len(masks), *(1,) * (self.positions is not None), -1, *(1,) * behind)
        return jnp.broadcast_to(masks, (len(masks), *shape[1:])).reshape(len(masks), -1)

    def features_shape(self, config: LlamaConfig) -> tuple[int, ...]:
        """Returns the shape of what is read of one problem in one layer, `([P,] U, ...)`."""
        positions = () if self.positions is None else (len(self.positions),)
        units, *coordinates = SITES[self.site].shape(config)
        return (*positions, 1 if self.of_units else units, *coordinates)

    def compared_shape(self, config: LlamaConfig) -> tuple[int, ...]:
        """Returns the shape of what is compared of it, `([P,] D)` where it is what units write."""
        if not self.written:
            return self.features_shape(config)
        return (*self.features_shape(config)[: -len(SITES[self.site].axes)], config.hidden_size)

    def empty_memories(self, student_width: int, teacher_width: int) -> tuple[RowMemory, ...]:
        """Returns a memory with nothing in it for each layer pair; none where none is asked for.

        Args:
            student_width: numbers of a problem in a layer, the product of `compared_shape`.
            teacher_width: likewise.
        """
        if not self.memory or self.num_classes is None:
            return ()
        widths = student_width, teacher_width
        return tuple(RowMemory.empty(self.num_classes, self.memory, *widths) for _ in self.pairs)
