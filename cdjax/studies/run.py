"""What all stages of a run share: what it starts from, where it is kept, and on what it runs."""

import dataclasses
import functools
from typing import Any

from etils import epath
from jax.sharding import Mesh

from cdjax.models import Llama, save_huggingface
from cdjax.parallel.mesh import one_device
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import await_file
from cdjax.run.options import RunOptions
from cdjax.studies.inputs import Inputs
from cdjax.studies.places import Places


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run of a study, whose folder is claimed.

    Attributes:
        inputs: checkpoints, problems and their split.
        workdir: its folder.
        mesh: the mesh; one device if None.
        options: what its trainings write and check on the way.
    """

    inputs: Inputs
    workdir: epath.Path
    mesh: Mesh | None = None
    options: RunOptions = RunOptions()

    def __post_init__(self):
        object.__setattr__(self, 'mesh', one_device() if self.mesh is None else self.mesh)
        if self.inputs.keeps_right and self.inputs.right is None:
            _ = self.teacher  # says which problems there are

    def __reduce__(self):
        # Another process has a device of its own, and loads the teacher itself.
        return type(self), (self.inputs, self.workdir, None, self.options)

    @functools.cached_property
    def teacher(self) -> Llama:
        """The teacher, loaded when a stage first needs it, and kept."""
        return self.inputs.load_teacher(self.mesh)

    def with_inputs(self, inputs: Inputs, workdir: epath.Path) -> 'Run':
        """Returns the same run with other problems of the same teacher, kept in another folder."""
        other = dataclasses.replace(self, inputs=inputs, workdir=workdir)
        vars(other)['teacher'] = self.teacher  # in the place of the cached one: it is loaded once
        return other

    @property
    def places(self) -> Places:
        """Where it keeps what it makes."""
        return Places(self.workdir)

    @property
    def passes(self) -> dict[str, Any]:
        """Keyword arguments of every pass of a model over a data set."""
        return {'mesh': self.mesh, 'tokens_per_pass': self.options.tokens_per_pass}

    def save_student(
        self, model: Llama, target: epath.Path, *trained_on: str, from_checkpoint: bool
    ) -> None:
        """Saves a student as a Hugging Face folder, unless it is there.

        Args:
            model: the student.
            target: the folder.
            *trained_on: the parts of the problems it was trained on, in order, see
                `Inputs.training_data`.
            from_checkpoint: whether it started from the student's checkpoint.
        """
        if not as_process_0_sees(target.exists):
            save_huggingface(
                model,
                target,
                tokenizer_from=self.inputs.tokenizer_path,
                beside=self.inputs.training_data(*trained_on, from_student=from_checkpoint),
            )
        await_file(target)
