"""Chooses hyperparameters of a discovery on a share of the training forms; see --grid.

Every setting is searched with one seed, the best of them and the command's own with all seeds.
Unseen forms take no part, so that what is chosen can be evaluated on them. Writes tuning.json into
--workdir. A killed run, started again with the same command, continues.

Example, 20 minutes on one CPU core; what it is going to do is told by --dry_run:
    python -m experiments.tune --grid=experiments/grids/any_size.flags --dry_run
"""

from absl import flags

from cdjax.circuits.ablation import ABLATIONS
from cdjax.errors import InputError
from cdjax.report.settings import settings_table
from cdjax.studies.tuning import TuningConfig, tune
from experiments import launch
from experiments.announce import announce
from experiments.flags import (
    define_checkpoint_flags,
    define_discovery_flags,
    define_machine_flags,
    define_run_flags,
    define_task_flags,
    define_workers_flag,
    discovery_from_flags,
    inputs_from_flags,
    run_options,
    start_machine,
)
from experiments.flags.given import refuse_given
from experiments.flags.grid import read_grid

FLAGS = flags.FLAGS
OWN = '(no flag)'
DEFAULT = {field.name: field.default for field in TuningConfig.__dataclass_fields__.values()}
define_run_flags('runs/tune')
define_workers_flag('searches')
define_checkpoint_flags()
define_task_flags()
define_discovery_flags()
define_machine_flags()
flags.DEFINE_string(
    'grid',
    None,
    'File with a setting a line: flags of experiments.discover that differ from those of the '
    'command, which is the first setting; required.',
    required=True,
)
flags.DEFINE_float(
    'validation_share',
    DEFAULT['validation'],
    'Part of the training forms that settings are compared on, and not searched with.',
)
flags.DEFINE_list('sizes', [str(s) for s in DEFAULT['sizes']], 'Sizes that the score averages.')
flags.DEFINE_enum('ablation', DEFAULT['ablation'], list(ABLATIONS), 'Fate of the other neurons.')
flags.DEFINE_list('seeds', [str(s) for s in DEFAULT['seeds']], 'Seeds of the searches.')
flags.DEFINE_integer(
    'finalists', DEFAULT['finalists'], 'Settings that are searched with all seeds.'
)
flags.DEFINE_integer('evaluate_problems', DEFAULT['problems'], 'Problems answered, at most.')


def main() -> None:
    """Tunes, and prints the table."""
    try:
        sizes, seeds = tuple(map(float, FLAGS.sizes)), tuple(map(int, FLAGS.seeds))
    except ValueError:
        raise InputError(
            f'sizes={",".join(FLAGS.sizes)}, seeds={",".join(FLAGS.seeds)}: write numbers such as '
            '.05,.1 and 0,1,2'
        ) from None
    config = TuningConfig(
        inputs_from_flags(),
        ((OWN, discovery_from_flags()), *read_grid(FLAGS.grid)),
        FLAGS.validation_share,
        sizes,
        FLAGS.ablation,
        seeds,
        FLAGS.finalists,
        FLAGS.evaluate_problems,
    )
    others = len(config.settings) - 1
    if FLAGS.finalists > others:
        refuse_given(['finalists'], f'is more than the settings of the grid, {others}: choose less')
    options = run_options()
    results = tune(config, FLAGS.workdir, mesh=start_machine(), options=options, announce=announce)
    launch.say(settings_table(results))
    launch.say_where(FLAGS.workdir)


if __name__ == '__main__':
    launch.run(main)
