"""The table of arms: KD against KD + CKA of circuits and its controls, over seeds and starts.

Discovers the teacher's circuits, distils every arm from every start with every seed, and prints
the table, which arms.json holds too. Runs are shared with nothing: each has its checkpoint, and a
killed study continues. The same command with more arms, more seeds or other sizes of the share
adds them to a finished table.

Example, 15 minutes on two CPU cores; what it is going to do is told by --dry_run:
    python -m experiments.compare_arms --flagfile=experiments/recipes/arms.flags --dry_run
"""

import jax
from absl import flags

from cdjax.report.headroom import headroom_table
from cdjax.report.terminal_students import (
    arms_table,
    pooled_lines,
    students_tables,
)
from cdjax.studies.analysis import check_pool, check_together, pooled_table
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.pipeline import TABLE, Pipeline, PipelineConfig
from experiments import launch
from experiments.announce import announce
from experiments.flags import (
    arms_from_flags,
    define_arms_flags,
    define_checkpoint_flags,
    define_discovery_flags,
    define_distillation_flags,
    define_machine_flags,
    define_reach_flags,
    define_run_flags,
    define_task_flags,
    discovery_from_flags,
    inputs_from_flags,
    reaching,
    run_options,
    start_machine,
)
from experiments.output import write_output

FLAGS = flags.FLAGS
define_run_flags('runs/arms')
define_checkpoint_flags()
define_task_flags()
define_reach_flags()
define_discovery_flags()
define_distillation_flags()
define_arms_flags()
define_machine_flags()
flags.DEFINE_list(
    'pool',
    [],
    'Workdirs of other tables, whose circuits are of another discovery seed or another teacher: '
    'all are taken together, and intervals cover the choice of both.',
)


def main() -> None:
    """Runs all arms and prints a table for each start."""
    check_pool(FLAGS.pool)
    config = PipelineConfig(
        inputs=reaching(inputs_from_flags()),
        discovery=discovery_from_flags(),
        study=CircuitStudyConfig(methods=()),
        arms=arms_from_flags(),
        layer_pairs=FLAGS.layer_pairs,
        most_pairs=FLAGS.most_pairs,
        rediscover=(),
    )
    options = run_options()
    pipeline = Pipeline(
        config,
        FLAGS.workdir,
        mesh=start_machine(),
        name=TABLE,
        options=options,
        announce=announce,
    )
    if FLAGS.pool:
        check_together([FLAGS.workdir, *FLAGS.pool])
    launch.say(pipeline.config.arms.describe())
    launch.say(headroom_table(pipeline.headroom(), pipeline.config.arms.primary))
    starts = pipeline.compare_arms()
    if jax.process_index() == 0:
        write_output(f'{FLAGS.workdir}/arms.json', {'starts': starts})
    launch.say(arms_table(starts))
    if FLAGS.pool:
        for start in starts:
            pooled = pooled_table([FLAGS.workdir, *FLAGS.pool], start, config.arms.primary)
            launch.say(pooled_lines(pooled))
    launch.say(students_tables(starts))
    launch.say_where(FLAGS.workdir)


if __name__ == '__main__':
    launch.run(main)
