"""Stage 2: distils one student, by KD alone or with the CKA of circuits.

Reads the circuits that experiments.discover has written, writes checkpoints, metrics.jsonl and
student/ (a Hugging Face folder) into --workdir. A killed run, started again with the same command,
continues.

Example, a minute on two CPU cores, after the example of experiments.discover:
    python -m experiments.distill --circuits=runs/discover/circuits/teacher.safetensors
"""

import dataclasses

from absl import flags

from cdjax.distillation.arms import ARMS
from cdjax.studies.distillation import StudentConfig, StudentStudy
from cdjax.training.distillation import DistillationConfig
from experiments import launch
from experiments.announce import announce
from experiments.flags import (
    alignment_from_flags,
    define_checkpoint_flags,
    define_distillation_flags,
    define_export_flag,
    define_machine_flags,
    define_pairs_flag,
    define_run_flags,
    define_task_flags,
    distillation_from_flags,
    inputs_from_flags,
    run_options,
    start_machine,
)

FLAGS = flags.FLAGS
define_run_flags('runs/distill')
flags.DEFINE_string('arm', StudentConfig.arm, f'What is aligned: {", ".join(ARMS)}.')
flags.DEFINE_string(
    'circuits', None, "The teacher's circuits (.safetensors), if the arm needs any."
)
flags.DEFINE_string('student_circuits', None, "The student's circuits of the same classes, if any.")
flags.DEFINE_integer(
    'seed', DistillationConfig().seed, "Seed of a new student's weights and of the batches."
)
define_export_flag(StudentConfig.export)
define_checkpoint_flags()
define_task_flags()
define_distillation_flags()
define_pairs_flag()
define_machine_flags()


def main() -> None:
    """Distils, exports, and prints the accuracy on unseen forms."""
    config = StudentConfig(
        inputs=inputs_from_flags(),
        distillation=dataclasses.replace(distillation_from_flags(), seed=FLAGS.seed),
        arm=FLAGS.arm,
        alignment=alignment_from_flags(),
        circuits=FLAGS.circuits,
        student_circuits=FLAGS.student_circuits,
        layer_pairs=FLAGS.layer_pairs,
        most_pairs=FLAGS.most_pairs,
        evaluate_every=FLAGS.evaluate_every,
        export=FLAGS.export,
    )
    options = run_options()
    study = StudentStudy(
        config, FLAGS.workdir, mesh=start_machine(), options=options, announce=announce
    )
    launch.say(f'distillation: {config.distillation.describe()}')
    student = study.run()
    launch.say(f'{student.accuracy:.1%} of {student.problems} problems of unseen forms')
    launch.say_where(FLAGS.workdir)


if __name__ == '__main__':
    launch.run(main)
