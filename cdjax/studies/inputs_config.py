"""What decides the inputs of a study."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from cdjax.data import TASKS, ArithmeticTask
from cdjax.data.limits import Limits
from cdjax.data.splits import SHARE, TEST
from cdjax.errors import InputError
from cdjax.models.config import PRESETS

SHAPE_FILE = '.json'  # how the name of a shape without weights ends
# None: each tensor keeps the dtype that it is stored in.
TEACHER_DTYPES = {'stored': None, 'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class InputsConfig:
    """What decides the inputs of a study.

    Attributes:
        task: arithmetic problems, the key of a generated task (`cdjax.data.TASKS`), or the path of
            a task file (jsonl).
        share: part of the training forms that distillation may use.
        test: part of all canonical forms that is held out.
        split_seed: of the split by canonical form.
        limits: of what distillation may use; held-out problems beyond them are measured apart.
        rival: key of a task of the same prompts and other answers, those of another rule; how often
            students give these is measured on held-out problems beyond the limits.
        text: a text file, whose perplexity tells what distillation makes students forget.
        other_tasks: likewise, tasks whose accuracy is measured: keys of `cdjax.data.TASKS`, or
            paths of task files.
        prompt_prefix: text before each prompt; arithmetic problems have their own, like the next.
        answer_tokens: tokens of an answer at most.
        answer_end: text that ends each answer, and has to be predicted too.
        only_correct: leave out the problems that the teacher, whole, answers wrong; whose circuits
            are searched for then is what it can do.
        teacher: a checkpoint folder or a hub id; the embedded teacher if None.
        student: a checkpoint to start from, or a preset's name or a `config.json` for a student
            from nothing of that shape; if None, one from nothing of half the teacher's width.
        teacher_dtype: key of `TEACHER_DTYPES`, of the teacher's weights and computation.
        random_weights: draw all weights at random instead of reading them: speed and memory are
            those of the real models, answers are not. Presets then do for a teacher too.
    """

    task: ArithmeticTask | str = ArithmeticTask()
    share: float = SHARE
    test: float = TEST
    split_seed: int = 0
    limits: Limits = Limits()
    rival: str | None = None
    text: str | None = None
    other_tasks: tuple[str, ...] = ()
    prompt_prefix: str = ''
    answer_tokens: int = 1
    answer_end: str = ''
    only_correct: bool = False
    teacher: str | None = None
    student: str | None = None
    teacher_dtype: str = 'stored'
    random_weights: bool = False

    def __post_init__(self):
        for name in ('teacher', 'student', 'task'):
            if getattr(self, name) == '':  # of a shell variable that is not set, most often
                raise InputError(f'{name}= names none: give its path, or leave it out')
        if self.teacher_dtype not in TEACHER_DTYPES:
            raise InputError(
                f'teacher_dtype={self.teacher_dtype}: choose one of {", ".join(TEACHER_DTYPES)}'
            )
        if self.rival is not None:
            TASKS[self.rival]  # an unknown one is refused
            if self.limits.none:
                raise InputError(
                    f'rival={self.rival} is told from the task beyond what students learn from: '
                    'set share_where or share_high too'
                )

    @property
    def prefix(self) -> str:
        """The text in front of every prompt."""
        return self.task.prefix if isinstance(self.task, ArithmeticTask) else self.prompt_prefix

    @property
    def encoding(self) -> dict[str, Any]:
        """How the problems of a task other than arithmetic are encoded, see `encode_task`."""
        names = ('prompt_prefix', 'answer_tokens', 'answer_end')
        return {name: getattr(self, name) for name in names}

    @property
    def has_student(self) -> bool:
        """Whether there is a student to start from, rather than one from nothing."""
        shape = self.student is None or self.student in PRESETS or self.student.endswith(SHAPE_FILE)
        return not shape
