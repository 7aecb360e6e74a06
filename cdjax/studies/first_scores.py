"""What ranks the neurons that a search starts from: circuits that are there, or a method."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods import LEARNED, METHODS, Context
from cdjax.errors import InputError
from cdjax.inference.means import neuron_means
from cdjax.models import Llama
from cdjax.run.progress import progress
from cdjax.studies.inputs import Inputs
from cdjax.studies.methods import check_methods
from cdjax.studies.run import Run


@dataclasses.dataclass(frozen=True, eq=False)
class FirstScores:
    """A ranking of the teacher's neurons, by the name that a user gives it.

    Attributes:
        name: a file of circuits, or the key of a method that scores neurons and trains nothing.
        circuit: those of the file; None of a method.
    """

    name: str
    circuit: Circuit | None

    @classmethod
    def named(cls, name: str) -> 'FirstScores':
        """Returns the ranking of a name; a method's is made by `rank`.

        Raises:
            InputError: a method that ranks nothing beforehand, or a file that cannot be read.
        """
        if name not in METHODS:
            return cls(name, Circuit.load(name))
        rankings = [
            key for key, m in METHODS.items() if m.scores and not m.trains and key != LEARNED.key
        ]
        if name not in rankings:
            raise InputError(
                f'first_scores={name} does not rank neurons before masks are trained: choose a '
                f'file of circuits or one of {", ".join(rankings)}'
            )
        return cls(name, None)

    def shaped(self, inputs: Inputs, num_classes: int) -> dict[str, np.ndarray]:
        """Returns scores of the shape that `rank` will have, before a model is loaded.

        Raises:
            InputError: problems that the method cannot score.
        """
        if self.circuit is not None:
            return {'teacher': self.circuit.scores}
        shape = inputs.teacher_config
        check_methods([self.name], inputs.dataset, num_classes, None, 0, shape)
        return {'teacher': np.zeros((1, shape.num_layers, shape.intermediate_size), np.float32)}

    def check(self, inputs: Inputs, model: Llama | None = None) -> None:
        """Raises InputError for circuits of other problems, or of another model than this one.

        Learned from problems that are unseen here their ranking would be a leak, and of another
        model noise.
        """
        if self.circuit is not None:
            inputs.check_circuits(self.circuit, f'--first_scores={self.name}', model=model)

    @property
    def fact(self) -> Any:
        """What decides results: what lies under a path may be another the next time."""
        if self.circuit is None:
            return self.name
        digest = hashlib.sha256(np.ascontiguousarray(self.circuit.scores)).hexdigest()
        return [self.name, digest[:16]]

    def rank(self, run: Run, teacher: Llama, seed: int) -> dict[str, np.ndarray]:
        """Returns `teacher` → float32 `[K, L, F]` or `[1, L, F]`, see `discover`.

        A method ranks for all classes alike, by the problems that are searched and what ablation
        to the mean would do to them.

        Args:
            run: whose problems are searched.
            teacher: the model.
            seed: of methods that draw.
        """
        if self.circuit is not None:
            return {'teacher': self.circuit.scores}
        dataset, rows = run.inputs.dataset, run.inputs.split.train
        context = Context(
            neuron_means(teacher, dataset[rows], **run.passes),
            seed=seed,
            mesh=run.mesh,
            options=run.options,
        )
        alike = np.zeros(len(dataset), np.int32)
        with progress(1, f'first scores: {self.name}', unit='method') as bar:
            scores = METHODS[self.name].scores(teacher, dataset, rows, alike, context=context)
            bar.update()
        return {'teacher': scores}
