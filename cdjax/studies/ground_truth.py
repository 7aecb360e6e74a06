"""What every method finds of circuits that are known, because they were planted."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from cdjax.circuits.circuit import Circuit, model_hash
from cdjax.circuits.methods import LEARNED, METHODS
from cdjax.data import Dataset
from cdjax.errors import InputError
from cdjax.inference.means import neuron_means
from cdjax.models import Llama
from cdjax.planted.ground_truth import NAME, GroundTruth
from cdjax.planted.recovery import leading, mean_recovery, recovery
from cdjax.studies.circuits import Ablated
from cdjax.studies.inputs import Inputs
from cdjax.studies.run import Run

# Parts of the planted neurons, those that the circuits rank first.
LEADING = (0.5, 0.6, 0.7, 0.8, 0.9)


def read_ground_truth(path: str, inputs: Inputs) -> GroundTruth:
    """Reads the ground truth of a teacher; to be asked before a weight is loaded.

    Args:
        path: its folder or file; beside the teacher's checkpoint if empty.
        inputs: the teacher and the problems.

    Raises:
        InputError: none is there, it belongs to other problems, or nothing is planted.
    """
    if not path and inputs.teacher_path is None:
        raise InputError('ground_truth: random weights have none; name a planted teacher')
    truth = GroundTruth.load(epath.Path(path or inputs.teacher_path))
    name = f'ground_truth={path}' if path else _beside_teacher(inputs)
    truth.check_belongs(name, data=inputs.dataset.hash)
    if not truth.causal_size:
        raise InputError(
            f'{name}: no planted neuron is necessary there, so there is nothing to be found; leave '
            'out the flag that asks for it'
        )
    truth.warn_unless_sufficient()
    return truth


def planted_classes(inputs: Inputs) -> np.ndarray | None:
    """Returns the classes that were planted in the teacher, int `[N]`, None where none are told.

    Args:
        inputs: the teacher and the problems; a ground truth of other problems says nothing.
    """
    truth = _beside(inputs)
    return truth.assignments if truth is not None and truth.num_classes > 1 else None


def planted_in(run: Run) -> GroundTruth | None:
    """Returns the ground truth of the teacher of a run, None where it says nothing of it.

    One of other problems or of another model does not, and nothing is to be found where no planted
    neuron is necessary.
    """
    truth = _beside(run.inputs)
    if truth is None or not truth.causal_size:
        return None
    if truth.info.get('model') != model_hash(run.teacher):
        return None
    truth.warn_unless_sufficient()
    return truth


def _beside_teacher(inputs: Inputs) -> str:
    """Returns what a user is told of the ground truth that no flag names."""
    return f'the ground truth of teacher={inputs.teacher_path}'


def _beside(inputs: Inputs) -> GroundTruth | None:
    """Returns the ground truth beside the teacher's checkpoint, None unless of these problems."""
    folder = inputs.teacher_path
    if folder is None or not (epath.Path(folder) / f'{NAME}.json').exists():
        return None
    truth = GroundTruth.load(epath.Path(folder))
    return truth if truth.info.get('data') == inputs.dataset.hash else None


def planted_circuit(run: Run) -> Circuit:
    """Returns what is planted in the teacher of a run, and necessary, as circuits of its classes.

    Raises:
        InputError: nothing is, or it is the ground truth of another model.
    """
    truth = read_ground_truth('', run.inputs)
    truth.check_belongs(_beside_teacher(run.inputs), model=model_hash(run.teacher))
    fill = neuron_means(run.teacher, run.inputs.dataset[run.inputs.split.train], **run.passes)
    scores = truth.necessary.astype(np.float32)
    return Circuit(truth.necessary, scores, fill, truth.assignments)


def study_recovery(
    truth: GroundTruth,
    model: Llama,
    circuit: Circuit,
    rankings: Mapping[str, Circuit],
    keys: tuple[str, ...],
    dataset: Dataset,
    rows: np.ndarray,
    *,
    seed: int,
    **passes,
) -> dict[str, Any]:
    """Returns how much of the planted circuits each method finds.

    Beside what the circuits keep, the planted ones and those found: where a method keeps as much
    with other neurons, the planted ones are not the only circuit of that size.

    Args:
        truth: the ground truth of the model.
        model: the model.
        circuit: the circuits that are studied.
        rankings: circuits of the methods that score neurons, by key.
        keys: of the methods.
        dataset: all problems.
        rows: int, the problems whose classes are compared, and that are answered.
        seed: of masks that are drawn.
        **passes: mesh and tokens of a pass.

    Returns:
        `classes`, `size` (neurons that a class needs, mean), `planted` and `living` (neurons),
        `kept`, the mean probability of the answer with only the neurons that the problem's class
        needs, and `methods`: key → `cdjax.planted.recovery.recovery`, means over draws where masks
        are drawn, and `kept` with only the circuits of that size, None of drawn masks; and
        `leading`: `shares`, and for each of them `kept` by only so many of the planted neurons, and
        `without_rest`, by the whole model without the others, see
        `cdjax.planted.recovery.leading`.

    Raises:
        InputError: the ground truth of another model.
    """
    truth.check_belongs('ground_truth', model=model_hash(model))
    ablated = Ablated(model, dataset[rows], circuit.fill, 'mean', passes)
    kept = lambda masks, classes: ablated.only([masks], classes[rows])[0].mean_probability
    found = {}
    for key in keys:
        ranked = circuit if key == LEARNED.key else rankings.get(key)
        if ranked is not None:
            found[key] = {
                **recovery(truth, ranked.scores, ranked.assignments, rows),
                'kept': kept(ranked.at_size(truth.causal_size).masks, ranked.assignments),
            }
        elif METHODS[key].draw is not None:
            like, method = circuit.at_size(truth.causal_size).masks, METHODS[key]
            draw = functools.partial(method.draw, like, living=truth.living)
            drawn = [draw(seed=seed + i) for i in range(method.draws)]
            found[key] = {
                **mean_recovery(
                    [recovery(truth, m.astype(float), circuit.assignments, rows) for m in drawn]
                ),
                'kept': None,
            }
    return {
        'classes': truth.num_classes,
        'size': truth.causal_size,
        'planted': int((~truth.decoys).sum()),
        'living': int(truth.living.sum()),
        'kept': kept(truth.necessary, truth.assignments),
        'methods': found,
        'leading': _study_leading(truth, circuit, ablated, rows),
    }


def _study_leading(
    truth: GroundTruth, circuit: Circuit, ablated: Ablated, rows: np.ndarray
) -> dict[str, list[float]]:
    """Returns what the planted neurons that the circuits rank first keep, and the others hold."""
    first = [leading(truth, circuit.scores, circuit.assignments, rows, share) for share in LEADING]
    rest = [truth.necessary & ~part for part in first]
    planted = truth.assignments[rows]
    return {
        'shares': list(LEADING),
        'kept': [told.mean_probability for told in ablated.only(first, planted)],
        'without_rest': [told.mean_probability for told in ablated.without(rest, planted)],
    }
