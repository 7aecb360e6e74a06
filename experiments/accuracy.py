"""What a model can do: its accuracy by range of operands and number of solved examples.

Circuits are worth looking for where it answers; where it does not, train it first (--init of
experiments.train_teacher).

Example, seconds on two CPU cores; a model that writes numbers in digits, behind 8 solved examples:
    python -m experiments.accuracy --teacher=PATH --operands=2 --several_lengths \\
        --answer_tokens=3 --answer_end='\\n' --ranges=0:9,0:99 --shot_counts=0,8
"""

import jax
from absl import flags

from cdjax.errors import InputError, renamed
from cdjax.report.terminal import accuracy_table
from cdjax.studies.accuracy import AccuracyConfig, measure_accuracy
from experiments import launch
from experiments.announce import announce_measuring
from experiments.flags import (
    define_checkpoint_flags,
    define_dry_run_flag,
    define_machine_flags,
    define_pass_flag,
    define_task_flags,
    inputs_from_flags,
    run_options,
    start_machine,
)
from experiments.flags.given import refuse_given
from experiments.output import check_output, write_output

FLAGS = flags.FLAGS
flags.DEFINE_list(
    'ranges',
    [f'{low}:{high}' for low, high in AccuracyConfig().ranges],
    'Ranges of operands, as LOW:HIGH, in place of --low and --high.',
)
flags.DEFINE_list(
    'shot_counts',
    [str(shots) for shots in AccuracyConfig().shots],
    'Numbers of solved examples, in place of --shots.',
)
flags.DEFINE_integer(
    'max_problems', AccuracyConfig().max_problems, 'Problems asked of each range, at most.'
)
flags.DEFINE_string('output', None, 'JSON file to write the table to.')
# Flags that the launchers of circuits have too: name → what to do.
INSTEAD = {
    'low': 'write --ranges',
    'high': 'write --ranges',
    'shots': 'write --shot_counts',
    'student': 'name the model that is asked with --teacher',
    'only_correct': 'leave it out, for all problems are asked',
    **dict.fromkeys(('share', 'test', 'split_seed'), 'leave it out, for nothing is split'),
}
define_dry_run_flag('what would be asked of what')
define_checkpoint_flags()
define_task_flags()
define_pass_flag()
define_machine_flags()


def main() -> None:
    """Asks, and prints the table."""
    try:
        ranges = tuple(tuple(map(int, pair.split(':'))) for pair in FLAGS.ranges)
        if any(len(pair) != 2 for pair in ranges):
            raise ValueError
    except ValueError:
        raise InputError(f'ranges={",".join(FLAGS.ranges)}: write LOW:HIGH, such as 0:9') from None
    if backwards := [pair for pair in ranges if pair[1] < pair[0]]:
        low, high = backwards[0]
        raise InputError(f'ranges={low}:{high}: write the smaller operand first, {high}:{low}')
    try:
        shots = tuple(map(int, FLAGS.shot_counts))
    except ValueError:
        raise InputError(f'shot_counts={",".join(FLAGS.shot_counts)}: write integers') from None
    for name, instead in INSTEAD.items():
        refuse_given([name], f'is not read here: {instead}')
    with renamed({'shots': 'shot_counts'}):
        config = AccuracyConfig(inputs_from_flags(), ranges, shots, FLAGS.max_problems)
    options = run_options()
    if FLAGS.output is not None:
        check_output(FLAGS.output, 'cells', 'a table of accuracies')
    found = measure_accuracy(
        config,
        mesh=start_machine(),
        options=options,
        announce=lambda line, facts: announce_measuring(
            f'accuracy: {line}' + (f'; to {FLAGS.output}' if FLAGS.output else ''), facts
        ),
    )
    launch.say(accuracy_table(found))
    if FLAGS.output is not None:
        if jax.process_index() == 0:
            write_output(FLAGS.output, found)
        launch.say(f'everything is in {FLAGS.output}')


if __name__ == '__main__':
    launch.run(main)
