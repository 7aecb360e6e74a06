"""One student: what its arm is given, what it is taught, its training, and what it then does."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cdjax.circuits.circuit import Circuit
from cdjax.data import Dataset
from cdjax.data.encoding import NO_TOKEN
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import Arm, Given
from cdjax.distillation.cka import debiased_cka
from cdjax.distillation.interchange import Interchange
from cdjax.distillation.readings import ACTIVATIONS
from cdjax.distillation.store import OnlineTeacher, TeacherStore
from cdjax.evaluation.calibration import calibration
from cdjax.inference.activations import answer_logits_and_activations
from cdjax.inference.predictions import predict
from cdjax.losses import class_conditional_cka
from cdjax.models import Llama, LlamaConfig
from cdjax.studies.inputs import Inputs
from cdjax.studies.run import Run
from cdjax.studies.teacher_says import TeacherSays
from cdjax.training.distillation import DistillationConfig, distill
from cdjax.training.log_points import Point


def given_to(
    arms: Iterable[Arm],
    inputs: Inputs,
    alignment: Alignment,
    circuits: tuple[Circuit | None, Circuit | None],
    says: TeacherSays,
    seed: int,
) -> Given:
    """Returns what arms are made from.

    Args:
        arms: those that are going to be made of it.
        inputs: the problems and the shapes.
        alignment: how representations are compared, and in which layers.
        circuits: of the teacher and of the student, None where there are none.
        says: what the teacher says of the share, and possibly of more behind it.
        seed: of the student.
    """
    share, shape = inputs.split.share, inputs.student_config
    asked = any(arm.needs_contribution for arm in arms)
    return Given(
        alignment,
        share,
        *circuits,
        seed=seed,
        contribution=says.contribution(len(share)) if asked else None,
        student_shape=(shape.num_layers, shape.intermediate_size),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """What one student is taught. It holds the teacher only where that is asked at every step.

    Attributes:
        arm: the arm.
        given: what its alignment is made from.
        alignment: what is compared, None for answers alone.
        store: what the teacher says of the share.
        interchange: what it answers where its circuits are patched, for an arm that compares that.
    """

    arm: Arm
    given: Given
    alignment: Alignment | None
    store: TeacherStore | OnlineTeacher
    interchange: Interchange | None

    @property
    def paired(self) -> Alignment:
        """Whose components are trained where those alone are: the student's circuits, if any.

        Circuits are of neurons. At another site they are those that are paired, of all problems.
        """
        if self.alignment is not None:
            return self.alignment
        if self.given.student is None or not self.given.alignment.of_neurons:
            return self.given.alignment
        return self.given.within_classes(None, self.given.student_masks)


def prepare(arm: Arm, given: Given, says: TeacherSays) -> Lesson:
    """Asks the teacher for what an arm teaches a student."""
    alignment, share = arm.alignment(given), len(given.rows)
    store = says.store(ACTIVATIONS.key if alignment is None else alignment.stored)[:share]
    interchange = says.interchange(alignment, share, given.seed)
    return Lesson(arm, given, alignment, store, interchange)


def distil(
    run: Run,
    lesson: Lesson,
    student: LlamaConfig | Llama,
    config: DistillationConfig,
    problems: Dataset,
    *,
    evaluate_every: int,
    workdir: epath.Path,
    description: str,
    best: tuple[str, str] | None = None,
) -> tuple[Llama, list[Point]]:
    """Distils one student on the share, and measures it on other problems on the way.

    Args:
        run: the run.
        lesson: what it is taught.
        student: a shape, or a model to start from.
        config: the distillation; its seed and its task are those of the lesson.
        problems: whose accuracy is measured.
        evaluate_every: steps between these evaluations.
        workdir: folder of the training.
        description: name on the progress bar.
        best: see `cdjax.training.loop.fit`.

    Returns:
        The student, and the log points of its training.
    """
    return distill(
        student,
        lesson.store,
        run.inputs.dataset[lesson.given.rows],
        dataclasses.replace(config, seed=lesson.given.seed, task=lesson.arm.task),
        mesh=run.mesh,
        alignment=lesson.alignment,
        interchange=lesson.interchange,
        paired=lesson.paired,
        description=description,
        workdir=workdir,
        evaluate=lambda model: {'accuracy': predict(model, problems, **run.passes).accuracy},
        evaluate_every=evaluate_every,
        best=best,
        options=run.options,
    )


def describe_training(history: Iterable[Point]) -> dict[str, Any]:
    """Returns the `curve` of a student's accuracy on unseen forms, and its `losses`."""
    points = list(history)
    return {
        'curve': [
            [point['step'], point['evaluation/accuracy']]
            for point in points
            if 'evaluation/accuracy' in point
        ],
        'losses': [
            [point['step'], point['task'], point['alignment']]
            for point in points
            if 'task' in point
        ],
    }


def measure_unseen(model, problems, store, rows, given, **passes) -> dict[str, float | None]:
    """Returns the calibration of a student, its accuracy by class, and its CKA with the teacher.

    The CKA is debiased, a mean over the layer pairs: `cka_all` compares all units over all
    problems, `cka_circuits` the teacher's circuit of each class with the student's neurons (its
    circuit, where it has one) on that class's problems, None at a site without circuits. `by_class`
    is the accuracy on the problems of each class of the teacher's circuits, of whole answers. The
    rest is what `cdjax.evaluation.calibration` returns. `passes` are further arguments of
    `answer_logits_and_activations`.
    """
    circuits = given.alignment
    if circuits.of_neurons:
        circuits = given.within_classes(given.teacher.masks, given.student_masks)
    layers = tuple(sorted(set(circuits.student_layers)))
    where = {'site': circuits.site, 'positions': circuits.positions}
    logits, x = answer_logits_and_activations(
        model,
        problems,
        layers=layers,
        answer_tokens=problems.answer_tokens,
        **where,
        **passes,
    )
    y = circuits.of_teacher(store.of_layers(circuits.teacher_layers))
    classes = jax.nn.one_hot(given.teacher.assignments[rows], given.teacher.num_classes)
    over_all, within = [], []
    for i, (s, t) in enumerate(zip(circuits.student_layers, circuits.teacher_layers, strict=True)):
        of_student = circuits.of_unit(x[:, layers.index(s)], circuits.student_units[i])
        of_teacher = y[:, i]
        sides = [jnp.asarray(side.reshape(len(side), -1)) for side in (of_student, of_teacher)]
        over_all.append(debiased_cka(*sides))
        if not circuits.of_neurons:
            continue
        features = lambda masks, side: circuits.over_features(
            jnp.asarray(masks, jnp.float32), side.shape
        )
        columns = {'y_masks': features(circuits.teacher_masks[:, t], of_teacher)}
        if circuits.student_masks is not None:
            columns['x_masks'] = features(circuits.student_masks[:, s], of_student)
        within.append(float(_cka_of_classes(*sides, classes, **columns).mean()))
    return {
        'cka_all': float(np.mean(over_all)),
        'cka_circuits': float(np.mean(within)) if within else None,
        'by_class': _by_class(_right(logits, problems.answers), given.teacher, rows),
        **calibration(logits, problems.answers),
    }


# A loop over classes that is not compiled is compiled anew, and kept, with every call.
_cka_of_classes = jax.jit(class_conditional_cka)


def _right(logits: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Returns which answers are right in all of their tokens, bool `[N]`."""
    right = (logits.argmax(axis=-1) == answers) | (answers == NO_TOKEN)
    return right.reshape(len(answers), -1).all(axis=1)


def _by_class(correct_N: np.ndarray, teacher: Circuit, rows: np.ndarray) -> list[float | None]:
    """Returns the accuracy on the problems of each class, None of one without any."""
    of_row = teacher.assignments[rows]
    own = [correct_N[of_row == k] for k in range(teacher.num_classes)]
    return [float(right.mean()) if len(right) else None for right in own]
