"""What an arm of distillation is, and what it is given."""

import dataclasses
from collections.abc import Callable

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.distillation.alignment import Alignment
from cdjax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What the arms of one start and one seed are made from.

    Attributes:
        alignment: all units of the paired layers, over all problems, and how they are compared.
        rows: int, the problems that students learn from, among those of the circuits.
        teacher: the teacher's circuits, whose classes are those of the problems; None where the
            arm needs none.
        student: the student's circuits of the same classes; None for one from nothing.
        seed: of arms that draw: that of the student.
        contribution: float `[L, U]`, how much each of the teacher's units adds to what is compared,
            see `cdjax.distillation.contribution`; for arms that ask for it. 0 of layers that are
            not paired.
        student_shape: `(layers, neurons)` of the student; for what gives it blocks of its own.
    """

    alignment: Alignment
    rows: np.ndarray | None = None
    teacher: Circuit | None = None
    student: Circuit | None = None
    seed: int = 0
    contribution: np.ndarray | None = None
    student_shape: tuple[int, int] | None = None

    def within_classes(
        self, teacher: np.ndarray | None, student: np.ndarray | None = None
    ) -> Alignment:
        """Returns the alignment within the classes of the teacher's circuits.

        Args:
            teacher: masks `[K, L, U]` of the teacher; all its units if None.
            student: those of the student, likewise.
        """
        return dataclasses.replace(
            self.alignment,
            classes=self.teacher.assignments[self.rows],
            teacher_masks=teacher,
            student_masks=student,
            num_classes=self.teacher.num_classes,
        )

    @property
    def student_masks(self) -> np.ndarray | None:
        """The student's masks, None where it has no circuits."""
        return None if self.student is None else self.student.masks


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to distil, held against others at equal steps, data and seeds.

    Attributes:
        key: what flags, results and folders know it by.
        title: its name in tables.
        phrase: its name within a sentence, and in figures.
        colour: a name of `cdjax.colours.PALETTE`, or `#rrggbb`.
        align: what it compares; None for answers alone.
        task: where the answers are from, a key of `cdjax.losses.TASKS`.
        needs_circuits: whether `align` reads circuits.
        least_classes: of those circuits.
        other_layers: whether it may compare layers of the teacher that are not paired.
        writes: whether it compares what units write.
        patches: whether it compares what a patch of circuits makes of the answer.
        needs_contribution: whether `align` reads how much units contribute.
        by_default: whether a comparison that names no arms runs it.
    """

    key: str
    title: str
    phrase: str
    colour: str
    align: Callable[[Given], Alignment] | None = None
    task: str = 'kd'
    needs_circuits: bool = False
    least_classes: int = 1
    other_layers: bool = False
    writes: bool = False
    patches: bool = False
    needs_contribution: bool = False
    by_default: bool = True

    def check(self, num_classes: int) -> None:
        """Raises InputError where circuits of so many classes are too few for it."""
        if num_classes < self.least_classes:
            raise InputError(
                f'the arm {self.key!r} needs at least {self.least_classes} classes, and there are '
                f'{num_classes}: leave it out, or raise num_classes'
            )

    def interchanges(self, alignment: Alignment) -> bool:
        """Tells whether it compares what a patch does, of all arms being asked for an alignment."""
        return self.patches or (self.align is not None and alignment.interchange)

    def alignment(self, given: Given) -> Alignment | None:
        """Returns what it compares, None for answers alone.

        Raises:
            InputError: circuits of too few classes.
        """
        if self.align is None:
            return None
        if self.needs_circuits:
            self.check(given.teacher.num_classes)
        return self.align(given)
