"""How a student is distilled."""

import dataclasses
from typing import ClassVar

from cdjax.distillation.components import TRAINED
from cdjax.errors import InputError, check_finite, check_seed
from cdjax.losses import TASKS
from cdjax.losses.cka import MIN_ROWS
from cdjax.models.llama import INIT_STD
from cdjax.training.accumulation import check_batch_size
from cdjax.training.optimizer import OptimizerConfig, Suited, SuitedToStart
from cdjax.training.schedules import WEIGHT_SCHEDULES

# A student of random weights generalises from a small share by its decay (README, "Where students
# start"); a checkpoint would lose in it what it knows.
FROM_NOTHING = Suited(2e-3, 1.0)


@dataclasses.dataclass(frozen=True)
class DistillationConfig(SuitedToStart):
    """How a student is distilled.

    Attributes:
        optimizer: AdamW and its schedule; its `steps` are the steps of the distillation. What it
            leaves open suits the student, see `suited_to`.
        task: where the answers are from, a key of `cdjax.losses.TASKS`: 'kd' and 'reverse_kd' from
            the teacher, 'cross_entropy' from the data.
        weight: λ of the alignment.
        weight_schedule: how λ changes over the steps, see `cdjax.training.schedules`.
        trained: what of the student is, one of `cdjax.distillation.components.TRAINED`.
        temperature: T of the KD.
        teacher_store: where what the teacher says is kept: 'memory'; a folder on a disk, which all
            runs of the same teacher and problems may share; or 'online', nowhere: it is asked again
            at every step.
        top_k: tokens of the teacher's answer that are stored for each problem (`TopKLogits`), the
            rest as one; all V if None.
        batch_size: problems a step.
        microbatches: parts of a batch that are computed one after the other, in the memory of one;
            CKA then compares the problems of a part.
        seed: of a new student's weights and of the order of the problems.
        init_std: standard deviation of a new student's matrices. It decides whether a narrow
            student generalises from a small share (README, "Where students start").
        compute_dtype: dtype of the computation (`bfloat16`); the parameters stay float32.
        remat: what the backward pass keeps, a key of `cdjax.models.llama.REMAT_POLICIES`.
    """

    from_nothing: ClassVar = FROM_NOTHING

    optimizer: OptimizerConfig = OptimizerConfig(1000)
    task: str = 'kd'
    weight: float = 1.0
    weight_schedule: str = 'constant'
    trained: str = 'all'
    temperature: float = 2.0
    teacher_store: str = 'memory'
    top_k: int | None = None
    batch_size: int = 128
    microbatches: int = 1
    seed: int = 0
    init_std: float = INIT_STD
    compute_dtype: str = 'float32'
    remat: str = 'none'

    def __post_init__(self):
        check_finite(weight=self.weight, init_std=self.init_std, temperature=self.temperature)
        if self.task not in TASKS:
            raise InputError(f'task={self.task}: choose from {", ".join(TASKS)}')
        for name, known in (('weight_schedule', WEIGHT_SCHEDULES), ('trained', TRAINED)):
            if getattr(self, name) not in known:
                raise InputError(f'{name}={getattr(self, name)}: choose from {", ".join(known)}')
        if self.task == 'reverse_kd' and self.top_k is not None:
            raise InputError(
                f'top_k={self.top_k}: reverse KD weighs tokens by the student, and needs the '
                "teacher's logits of all: leave out top_k"
            )
        if not self.teacher_store:
            raise InputError('teacher_store= names no folder: write memory, online or a folder')
        if self.weight < 0:
            raise InputError(f'weight={self.weight} of the alignment must not be negative')
        if not self.init_std > 0:
            raise InputError(f'init_std={self.init_std} must be above 0')
        if not self.temperature > 0:
            raise InputError(f'temperature={self.temperature} must be above 0')
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f'top_k={self.top_k}: at least 1 token is needed')
        check_batch_size(self.batch_size, self.microbatches)
        check_seed(seed=self.seed)

    @property
    def least_aligned_batch(self) -> int:
        """Problems of the smallest batch that can be aligned: what CKA needs in each part of it."""
        return MIN_ROWS * self.microbatches

    def check_aligned(self, problems: int) -> None:
        """Raises InputError for a batch that cannot be aligned.

        It, or a part of it, is too small for CKA; or larger than all N problems. What is repeated
        in a batch resembles itself in every model: debiased CKA, which leaves out the comparison of
        each row with itself, would take it for a likeness of student and teacher.
        """
        if self.batch_size > problems:
            raise InputError(
                f'batch_size={self.batch_size} is more than the {problems} problems of the share, '
                'and CKA takes a problem that is repeated in a batch for a likeness: choose '
                f'batch_size={problems} or less, or a larger share'
            )
        if self.batch_size < self.least_aligned_batch:
            parts = f' in {self.microbatches} microbatches' if self.microbatches > 1 else ''
            raise InputError(
                f'batch_size={self.batch_size}{parts} is too small: CKA needs at least {MIN_ROWS} '
                'problems at once'
            )
