"""The accuracy of every arm at the arithmetic that KD takes: what alignment costs in steps."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import KD
from cdjax.planning.distillation import DistillationJob
from cdjax.studies.beside_kd import gain_over_kd
from cdjax.studies.inputs import Inputs
from cdjax.training.distillation import DistillationConfig, alike


def step_flops(
    inputs: Inputs,
    config: DistillationConfig,
    alignment: Alignment | None,
    *,
    pretrained: bool,
    mesh: Mesh,
) -> float:
    """Returns the FLOPs of a step of a student, as XLA counts those of its program.

    Of the program before it is optimised: of products, and of what is done element by element.
    Alignments of one shape are one program, which is counted once.

    Args:
        inputs: the models and the problems.
        config: the distillation.
        alignment: what is aligned, None for answers alone.
        pretrained: whether students start from something.
        mesh: the mesh; its devices are not used.
    """
    if alignment is not None:
        # Shapes count, and no arrays.
        classes = alignment.num_classes if alignment.classes is not None else None
        alignment = dataclasses.replace(
            alignment,
            classes=None,
            teacher_masks=None,
            student_masks=None,
            teacher_rows=None,
            num_classes=classes,
        )
    job = DistillationJob(
        inputs.student_config,
        inputs.teacher_config,
        inputs.dataset.tokens.shape[1],
        len(inputs.split.share),
        alike(config),
        alignment,
        teacher_dtype=inputs.teacher_dtype,
        keep_start=pretrained,
        answer_tokens=inputs.dataset.answer_tokens,
    )
    return _flops(job, mesh)


@functools.lru_cache(maxsize=64)
def _flops(job: DistillationJob, mesh: Mesh) -> float:
    program = job.student_step(mesh)
    with jax.set_mesh(mesh):
        return float(program.step.lower(*program.arguments).cost_analysis()['flops'])


def at_equal_flops(
    runs: Sequence[Mapping[str, Any]], flops: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Returns the accuracy of each arm when it has taken as many FLOPs as KD in all its steps.

    Read off its curve between two evaluations. The learning rate of an arm that stops earlier has
    not fallen as far, which if anything does it wrong.

    Args:
        runs: of all students of a start, those of KD among them.
        flops: arm → FLOPs of a step.

    Returns:
        For each arm `arm`, `step_flops`, the `steps` that KD's arithmetic buys, the `accuracies[]`
        by seed, their `mean`, and for other arms than KD `gain`, `gain_interval` and `p` of the
        difference from KD's at the end, paired by seed; None where it is before the first
        evaluation, or with one seed.
    """
    curves = {(run['arm'], run['seed']): np.array(run['curve'], float).T for run in runs}
    rows = []
    for arm in dict.fromkeys(run['arm'] for run in runs):
        seeds = [seed for name, seed in curves if name == arm and (KD.key, seed) in curves]
        last = curves[arm, seeds[0]][0, -1]
        steps = min(last * flops[KD.key] / flops[arm], last)
        found = [float(np.interp(steps, *curves[arm, seed])) for seed in seeds]
        early = steps < curves[arm, seeds[0]][0, 0]
        row = {
            'arm': arm,
            'step_flops': flops[arm],
            'steps': float(steps),
            'accuracies': None if early else found,
            'mean': None if early else float(np.mean(found)),
        }
        if arm != KD.key:
            ends = [curves[KD.key, seed][1, -1] for seed in seeds]
            gaps = np.subtract(found, ends)
            gain = gain_over_kd(gaps)
            row |= dict.fromkeys(gain) if early else gain
        rows.append(row)
    return rows
