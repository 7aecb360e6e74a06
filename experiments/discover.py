"""Stage 1: discovers the circuits of a model, or of a teacher and a student jointly.

Writes checkpoints, metrics.jsonl and circuits/MODEL.safetensors + .json into --workdir.
"""

import dataclasses

from absl import flags

from cdjax.inference.predictions import predict
from cdjax.run.folder import open_workdir
from cdjax.studies.inputs import Inputs
from cdjax.training.discovery import check_discovery, discover
from experiments import launch
from experiments.flags import (
    define_checkpoint_flags,
    define_discovery_flags,
    define_machine_flags,
    define_run_flags,
    define_task_flags,
    discovery_from_flags,
    inputs_from_flags,
    run_options,
    start_machine,
)

FLAGS = flags.FLAGS
define_run_flags('runs/discover')
define_checkpoint_flags()
define_task_flags()
define_discovery_flags()
define_machine_flags()


def main() -> None:
    """Discovers, saves, and prints what the circuits keep on unseen forms."""
    config, options = discovery_from_flags(), run_options()
    inputs = Inputs(inputs_from_flags())
    shapes = {'teacher': inputs.teacher_config}
    if inputs.has_student:
        shapes['student'] = inputs.student_config
    mesh = start_machine()
    check_discovery(shapes, inputs.dataset, config, mesh=mesh, batch_flag='discovery_batch_size')
    facts = {'inputs': inputs.facts(), 'discovery': dataclasses.asdict(config)}
    workdir = open_workdir(FLAGS.workdir, facts, name='discover')
    models = {'teacher': inputs.load_teacher(mesh)}
    if inputs.has_student:
        models['student'] = inputs.load_student(mesh)
    circuits, _ = discover(
        models,
        inputs.dataset,
        inputs.split.train,
        config,
        mesh=mesh,
        workdir=workdir,
        options=options,
    )
    unseen = inputs.dataset[inputs.split.test]
    for name, circuit in circuits.items():
        circuit.info.update(inputs.origin)
        classes = circuit.assignments[inputs.split.test]
        ablated = dict(mesh=mesh, classes=classes, fill=circuit.fill)
        circuit.info['metrics'] = {
            'accuracy': predict(models[name], unseen, mesh=mesh).accuracy,
            'accuracy_with_only': predict(
                models[name], unseen, masks=circuit.masks, **ablated
            ).accuracy,
            'accuracy_without': predict(
                models[name], unseen, masks=1.0 - circuit.masks, **ablated
            ).accuracy,
        }
        path = circuit.save(workdir / 'circuits' / name)
        figures = ', '.join(f'{k} {v:.1%}' for k, v in circuit.info['metrics'].items())
        launch.say(
            f'{name}: {circuit.num_classes} circuits of {circuit.size} neurons '
            f'({circuit.share:.1%}); {figures}; saved to {path}'
        )


if __name__ == '__main__':
    launch.run(main)
