"""What a model can do before anything is searched for in it: accuracy by range and examples."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cdjax.data import ArithmeticTask, encode_task
from cdjax.errors import InputError
from cdjax.evaluation.statistics import bootstrap_interval
from cdjax.inference.predictions import predict
from cdjax.parallel.mesh import one_device
from cdjax.run.options import RunOptions
from cdjax.run.progress import progress
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.wording import count


@dataclasses.dataclass(frozen=True)
class AccuracyConfig:
    """Which problems a model is asked.

    Attributes:
        inputs: the model, and the arithmetic that all problems have in common.
        ranges: the smallest and the largest operand, of each row of the table.
        shots: solved examples in front of a prompt, of each of its columns.
        max_problems: problems asked of each, drawn at random.
    """

    inputs: InputsConfig = InputsConfig()
    ranges: tuple[tuple[int, int], ...] = ((0, 9), (0, 19))
    shots: tuple[int, ...] = (0,)
    max_problems: int = 500

    def __post_init__(self):
        if not isinstance(self.inputs.task, ArithmeticTask):
            raise InputError(
                f'task={self.inputs.task}: ranges are of the arithmetic that the flags describe'
            )
        if self.max_problems < 1:
            raise InputError(f'max_problems={self.max_problems}: at least 1 is needed')
        for name, values in (('ranges', self.ranges), ('shot_counts', self.shots)):
            if not values:
                raise InputError(f'{name}=: name at least one')
        self.tasks()

    def tasks(self) -> list[ArithmeticTask]:
        """Returns the task of each cell of the table, a range after the other."""
        return [
            dataclasses.replace(self.inputs.task, low=low, high=high, shots=shots)
            for (low, high), shots in itertools.product(self.ranges, self.shots)
        ]


def measure_accuracy(
    config: AccuracyConfig,
    *,
    mesh: Mesh | None = None,
    options: RunOptions = RunOptions(),
    announce: Callable[[str, Mapping[str, Any]], None] = lambda line, facts: None,
) -> dict[str, Any]:
    """Asks a model problems of several ranges, behind several numbers of solved examples.

    Args:
        config: what is asked.
        mesh: the mesh; one device if None.
        options: of passes.
        announce: is told what is going to be asked, in one line and as `inputs` will hold it,
            before the model is loaded.

    Returns:
        `inputs`, what was asked of what; and `cells`, for each range and number of examples
        `low`, `high`, `shots`, `problems`, `accuracy` and its bootstrap `interval` over problems,
        the mean `probability` of the answer, accuracy `by_operators`, and an `example`.

    Raises:
        InputError: wrong inputs, or a range of which nothing fits the tokenizer.
    """
    mesh = one_device() if mesh is None else mesh
    inputs = Inputs(dataclasses.replace(config.inputs, task=config.tasks()[0], only_correct=False))
    datasets = []
    for task in config.tasks():
        dataset = encode_task(task, inputs.tokenizer)
        drawn = np.random.default_rng(task.seed).permutation(len(dataset))[: config.max_problems]
        datasets.append(dataset[np.sort(drawn)])
    facts = json.loads(json.dumps(dataclasses.asdict(config.inputs)))
    facts |= {'max_problems': config.max_problems}
    announce(
        f'{inputs.teacher_path or "random weights"} on {count(len(config.ranges), "range")} of '
        f'operands, {count(sum(map(len, datasets)), "problem")} in all',
        facts | {'ranges': config.ranges, 'shots': config.shots},
    )
    model, cells = inputs.load_teacher(mesh), []
    passes = {'mesh': mesh, 'tokens_per_pass': options.tokens_per_pass}
    with progress(len(datasets), 'accuracy', unit='cell') as bar:
        for task, dataset in zip(config.tasks(), datasets, strict=True):
            found = predict(model, dataset, **passes)
            names = dataset.label_names['operators']
            by = found.accuracy_by_class(dataset.labels['operators'], len(names))
            cells.append(
                {
                    'low': task.low,
                    'high': task.high,
                    'shots': task.shots,
                    'problems': len(dataset),
                    'accuracy': found.accuracy,
                    'interval': bootstrap_interval(found.correct),
                    'probability': found.mean_probability,
                    'by_operators': {
                        name: None if value != value else float(value)
                        for name, value in zip(names, by, strict=True)
                    },
                    'example': str(dataset.prompts[0]),
                }
            )
            bar.update(1)
    return {'inputs': facts, 'cells': cells}
