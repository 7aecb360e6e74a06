"""Measures saved circuits on unseen forms: accuracy with only them and without, at every size.

Prints a table beside random masks and other rankings of the neurons, and writes the whole study
as JSON.

Example, a minute on two CPU cores, after the example of experiments.discover:
    python -m experiments.evaluate --circuits=runs/discover/circuits/teacher.safetensors --noareas
"""

import jax
from absl import flags

from cdjax.report.terminal import circuits_table, kept_line, recovery_table
from cdjax.studies.circuits import smallest_faithful_share
from cdjax.studies.evaluation import EvaluationConfig, evaluate_circuits
from experiments import launch
from experiments.announce import announce_measuring
from experiments.flags import (
    define_checkpoint_flags,
    define_dry_run_flag,
    define_machine_flags,
    define_optional_path,
    define_pass_flag,
    define_study_flags,
    define_task_flags,
    inputs_from_flags,
    run_options,
    start_machine,
    study_from_flags,
)
from experiments.output import check_output, write_output

FLAGS = flags.FLAGS
flags.DEFINE_string(
    'circuits', None, 'Circuits of the teacher (.safetensors); required.', required=True
)
flags.DEFINE_string('output', None, 'JSON file to write; beside the circuits if not given.')
define_optional_path(
    'ground_truth',
    'Compare with the circuits that were planted in the teacher: folder or file of its ground '
    'truth, that beside the checkpoint if no path is given.',
)
define_dry_run_flag('what would be measured, on which problems and how')
define_study_flags(trained=False)
define_checkpoint_flags()
define_task_flags()
define_pass_flag()
define_machine_flags()


def main() -> None:
    """Evaluates and prints."""
    config = EvaluationConfig(
        FLAGS.circuits, inputs_from_flags(), study_from_flags(trained=False), FLAGS.ground_truth
    )
    beside = str(FLAGS.circuits).removesuffix('.safetensors') + '.study.json'
    options = run_options()
    output = FLAGS.output or beside
    check_output(output, 'curves', 'a study')
    study = evaluate_circuits(
        config,
        mesh=start_machine(),
        options=options,
        announce=lambda line, facts: announce_measuring(f'evaluate: {line}; to {output}', facts),
    )
    if jax.process_index() == 0:
        write_output(output, study)
    if 'only_correct' in study:
        launch.say(kept_line(study['only_correct']))
    launch.say(circuits_table(study, smallest_faithful_share(study)))
    if 'ground_truth' in study:
        launch.say(recovery_table(study))
    launch.say(f'everything is in {output}')


if __name__ == '__main__':
    launch.run(main)
