"""Trains a small Llama on arithmetic from nothing, or fine-tunes a checkpoint (--init).

Saves a Hugging Face folder; with --plant, circuits are planted and told beside it. A killed run,
started again with the same command, continues.

Example, 15 minutes on two CPU cores; it made the teacher that ships with the package:
    python -m experiments.train_teacher --flagfile=experiments/recipes/teacher.flags
"""

import dataclasses

from absl import flags

from cdjax.errors import InputError
from cdjax.studies.teacher import TeacherConfig, TeacherShape, TeacherStudy
from cdjax.training.language_model import FROM_NOTHING, LanguageModelConfig
from experiments import launch
from experiments.announce import announce
from experiments.flags import (
    define_export_flag,
    define_machine_flags,
    define_plant_flags,
    define_run_flags,
    define_task_flags,
    define_training_flags,
    plant_from_flags,
    problems_from_flags,
    run_options,
    start_machine,
    training_from_flags,
)

FLAGS = flags.FLAGS
SHAPE = {
    'hidden_size': 'Width of the residual stream.',
    'intermediate_size': 'FFN neurons a layer.',
    'layers': 'Blocks.',
    'heads': 'Attention heads.',
    'kv_heads': 'Key and value heads.',
    'max_number': 'Largest number that is one token.',
}
define_run_flags('runs/teacher')
flags.DEFINE_string('output', None, 'Hugging Face folder to write; WORKDIR/model if not given.')
flags.DEFINE_string(
    'init', None, 'Checkpoint folder or hub id to fine-tune, with its shape and tokenizer.'
)
for name, what in SHAPE.items():
    flags.DEFINE_integer(name, getattr(TeacherShape(), name), what)
flags.DEFINE_integer('seed', LanguageModelConfig().seed, 'Seed of weights and batches.')
flags.DEFINE_integer(
    'evaluate_every', TeacherConfig().evaluate_every, 'Steps between evaluations on unseen forms.'
)
define_export_flag(TeacherConfig().export)
define_training_flags(LanguageModelConfig(), FROM_NOTHING)
define_task_flags()
define_plant_flags()
define_machine_flags()


def main() -> None:
    """Trains, evaluates on unseen canonical forms and saves."""
    given = [name for name in SHAPE if FLAGS[name].present]
    if FLAGS.init is not None and given:
        raise InputError(f'{given[0]}={FLAGS[given[0]].value}: --init={FLAGS.init} has its own')
    config = TeacherConfig(
        inputs=dataclasses.replace(problems_from_flags(), teacher=FLAGS.init),
        shape=TeacherShape(**{name: FLAGS[name].value for name in SHAPE}),
        training=LanguageModelConfig(seed=FLAGS.seed, **training_from_flags()),
        evaluate_every=FLAGS.evaluate_every,
        export=FLAGS.export,
        plant=plant_from_flags(),
    )
    options = run_options()
    study = TeacherStudy(
        config,
        FLAGS.workdir,
        FLAGS.output,
        mesh=start_machine(),
        options=options,
        announce=announce,
    )
    launch.say(f'training: {config.training.describe()}')
    teacher = study.run()
    launch.say(
        f'{teacher.accuracy:.2%} of {teacher.problems} problems of unseen canonical forms; teacher '
        f'in {teacher.folder}'
    )
    launch.say_where(FLAGS.workdir)


if __name__ == '__main__':
    launch.run(main)
