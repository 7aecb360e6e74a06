"""What a study asks of its teacher for students: stores, contributions, patched answers."""

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import Arm
from cdjax.distillation.contribution import unit_contributions
from cdjax.distillation.interchange import Interchange, patch_teacher
from cdjax.distillation.patched_store import stored_interchange
from cdjax.distillation.readings import ACTIVATIONS
from cdjax.distillation.shard_folder import check_place
from cdjax.distillation.shards import check_stored, stored_teacher
from cdjax.distillation.store import OnlineTeacher, TeacherStore, Wanted
from cdjax.models import Llama
from cdjax.studies.inputs import Inputs
from cdjax.studies.run import Run
from cdjax.training.distillation import DistillationConfig

# Where what the teacher says is kept; anything else is a folder.
IN_MEMORY, ONLINE = 'memory', 'online'
# In that folder, beside a store of each reading: what the patched teacher answers.
PATCHED = 'patched'


def check_kept(place: str) -> None:
    """Raises InputError where what the teacher says cannot be kept.

    Args:
        place: `DistillationConfig.teacher_store`.
    """
    if place not in (IN_MEMORY, ONLINE):
        check_place(place)


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What a study is going to ask its teacher for students.

    Attributes:
        rows: int, the problems, those of the share first.
        config: the distillation.
        alignment: how representations are compared, without layers, classes and masks.
        layers: of the teacher that may be compared; all if None.
        arms: that are going to be run.
    """

    rows: np.ndarray
    config: DistillationConfig
    alignment: Alignment
    layers: Iterable[int] | None
    arms: Iterable[Arm]

    def wanted(self, reading: str) -> Wanted:
        """Returns what a store of it is to hold, units read in one way."""
        outputs = self.alignment.written or any(
            arm.writes or arm.needs_contribution for arm in self.arms
        )
        return Wanted(
            None if self.layers is None else tuple(self.layers),
            self.alignment.site,
            self.alignment.positions,
            reading,
            outputs and reading == ACTIVATIONS.key,
            self.config.top_k,
            self.config.temperature,
        )

    def check_store(
        self, inputs: Inputs, *, reading: str = ACTIVATIONS.key, teacher: Llama | None = None
    ) -> None:
        """Raises InputError for a folder that holds the store of something else.

        Args:
            inputs: of the study.
            reading: one in which units are going to be read.
            teacher: the teacher; it is not compared as long as it is None.
        """
        place = self.config.teacher_store
        if place not in (IN_MEMORY, ONLINE):
            check_stored(
                epath.Path(place) / reading,
                inputs.teacher_config,
                inputs.dataset[self.rows],
                self.wanted(reading),
                teacher=teacher,
                problems_known=inputs.right is not None or not inputs.keeps_right,
            )


class TeacherSays:
    """What a teacher says of some problems of a run, each asked for once.

    Args:
        run: the run.
        asked: what it is asked.
        teacher: the teacher; that of the run if None.
    """

    def __init__(self, run: Run, asked: Asked, teacher: Llama | None = None):
        self._run, self._asked, self._teacher = run, asked, teacher
        self._dataset = run.inputs.dataset[asked.rows]
        self._whole, self._places = None, None
        self._stores: dict[str, TeacherStore | OnlineTeacher] = {}

    def some(self, places: np.ndarray) -> 'TeacherSays':
        """Returns what it says of some of the problems, which it is not asked for again.

        Args:
            places: int, among `rows`.
        """
        part = copy.copy(self)
        part._dataset, part._whole, part._places = self._dataset[places], self, places
        part._stores = {}
        return part

    @property
    def teacher(self) -> Llama:
        """The teacher."""
        return self._run.teacher if self._teacher is None else self._teacher

    def store(self, reading: str = ACTIVATIONS.key) -> TeacherStore | OnlineTeacher:
        """Returns what it says of all problems, its units read in one way."""
        # Kept here: a cache of the class would hold on to the teacher.
        if reading not in self._stores:
            self._stores[reading] = self._store(reading)
        return self._stores[reading]

    def _store(self, reading: str) -> TeacherStore | OnlineTeacher:
        if self._whole is not None:
            return self._whole.store(reading)[self._places]
        wanted, passes = self._asked.wanted(reading), self._run.passes
        place = self._asked.config.teacher_store
        if place == ONLINE:
            return OnlineTeacher.build(self.teacher, self._dataset, wanted, **passes)
        if place != IN_MEMORY:
            folder = epath.Path(place) / reading
            return stored_teacher(folder, self.teacher, self._dataset, wanted, **passes)
        return TeacherStore.build(self.teacher, self._dataset, **vars(wanted), **passes)

    def contribution(self, share: int) -> np.ndarray:
        """Returns what each unit adds on the first `share` problems, see `unit_contributions`."""
        return unit_contributions(self.store()[:share], self._run.inputs.teacher_config.num_layers)

    def interchange(self, alignment: Alignment | None, share: int, seed: int) -> Interchange | None:
        """Returns the answers of the patched teacher on the share, None where none are compared."""
        if alignment is None or not alignment.interchange:
            return None
        config = self._asked.config
        top_k = None if config.top_k is None else (config.top_k, config.temperature)
        share = self._dataset[:share]
        options: dict[str, Any] = {'seed': seed, 'top_k': top_k, **self._run.passes}
        if config.teacher_store in (IN_MEMORY, ONLINE):
            return patch_teacher(self.teacher, share, alignment, **options)
        folder = epath.Path(config.teacher_store) / PATCHED
        return stored_interchange(folder, self.teacher, share, alignment, **options)
