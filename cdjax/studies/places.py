"""Where a run keeps what it makes: its results, trainings, circuits and students."""

import dataclasses
from collections.abc import Mapping

from etils import epath


def student_name(start: str, arm: str, seed: int) -> str:
    """Returns what a student is known by in folders and in results."""
    return f'{start}-{arm}-{seed}'


def weighed_name(start: str, arm: str, weight: float, seed: int) -> str:
    """Returns what a student is known by that is distilled to choose a weight."""
    return f'{start}-{arm}-{weight}-{seed}'


@dataclasses.dataclass(frozen=True)
class Search:
    """Where a search for circuits is kept.

    Attributes:
        training: folder of its checkpoints and metrics.
        circuits: name of each model → its circuits, without a suffix.
    """

    training: epath.Path
    circuits: Mapping[str, epath.Path]

    @property
    def files(self) -> tuple[epath.Path, ...]:
        """What is there when it is done."""
        return tuple(path.with_suffix('.json') for path in self.circuits.values())


@dataclasses.dataclass(frozen=True)
class Places:
    """The places of a run, whose folder need not be there.

    Attributes:
        folder: of the run.
    """

    folder: epath.Path

    def result(self, *names: str) -> epath.Path:
        """Returns the file of a stored result."""
        return self.folder.joinpath('results', *names[:-1], f'{names[-1]}.json')

    def training(self, *names: str) -> epath.Path:
        """Returns the folder of a training."""
        return self.folder.joinpath('stages', *names)

    def circuits(self, *names: str) -> epath.Path:
        """Returns the path of circuits, without a suffix."""
        return self.folder.joinpath('circuits', *names)

    def student(self, name: str) -> epath.Path:
        """Returns the Hugging Face folder of a student that is kept."""
        return self.folder / 'students' / name

    @property
    def exported(self) -> epath.Path:
        """The Hugging Face folder of the student that the run is for."""
        return self.folder / 'student'

    def with_problems(self, problems: int) -> 'Places':
        """Returns the places of the same students with a smaller share."""
        return Places(self.folder / 'problems' / str(problems))

    def head_start(self, seed: int) -> epath.Path:
        """Returns the training of a student that does part of the task before it is distilled."""
        return self.training('head_start', str(seed))

    def distillation(self, student: str) -> epath.Path:
        """Returns the training of a student."""
        return self.training('distill', student)

    def weighing(self, student: str) -> epath.Path:
        """Returns the training of a student that is distilled to choose a weight."""
        return self.training('weights', student)

    def search(self, name: str) -> Search:
        """Returns a search in the teacher."""
        return Search(self.training(name), {'teacher': self.circuits(name)})

    def search_teacher(self) -> Search:
        """Returns the search whose classes are those of the run."""
        return Search(self.training('discover', 'teacher'), {'teacher': self.circuits('teacher')})

    def search_jointly(self, start: str, seed: int) -> Search:
        """Returns the search in the teacher and in a student that is to be distilled."""
        # All seeds start from one checkpoint, whose circuits are searched once.
        name = 'joint_checkpoint' if start == 'checkpoint' else f'joint_{start}_{seed}'
        models = ('teacher', 'student')
        circuits = {model: self.circuits(name, model) for model in models}
        return Search(self.training('discover', name), circuits)

    def search_student(self, student: str) -> Search:
        """Returns the search in a student that was distilled."""
        circuits = {'student': self.circuits(f'student_{student}')}
        return Search(self.training('rediscover', student), circuits)

    def search_by_method(self, method: str) -> Search:
        """Returns the search of a method that trains masks."""
        circuits = {'teacher': self.circuits(f'method_{method}')}
        return Search(self.training('methods', method), circuits)
