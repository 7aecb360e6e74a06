"""The whole mission: circuits of a teacher, students distilled from it, and what moved.

Writes config.json, results.json, circuits/, stages/ (checkpoints, metrics.jsonl, TensorBoard),
student/ (a Hugging Face folder) and report.html into --workdir. A killed run, started again with
the same command, continues. With an empty list of --arms there are no students: circuits, their
controls and --studies of the teacher alone.

Example, 4 minutes on two CPU cores; the main job, as `make demo` runs it:
    python -m experiments.pipeline --flagfile=experiments/recipes/demo.flags
"""

from absl import flags

from cdjax.distillation.arms import CIRCUITS, KD
from cdjax.report.terminal import summary
from cdjax.studies.extra import STUDIES
from cdjax.studies.pipeline import Pipeline, PipelineConfig
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
    define_study_flags,
    define_task_flags,
    define_workers_flag,
    discovery_from_flags,
    inputs_from_flags,
    reaching,
    run_options,
    start_machine,
    study_from_flags,
)
from experiments.flags.distillation import flags_of_students
from experiments.flags.given import refuse_given

FLAGS = flags.FLAGS
define_run_flags('runs/pipeline')
define_workers_flag('searches of --studies')
flags.DEFINE_list(
    'rediscover',
    None,
    f'Arms whose students are searched again; {KD.key} and {CIRCUITS.key}, where they are run, if '
    'not given.',
)
flags.DEFINE_string(
    'export',
    None,
    f'Arm whose student is exported to WORKDIR/student; {CIRCUITS.key} if not given, or the first '
    'arm of a run without it.',
)
flags.DEFINE_list(
    'studies',
    list(PipelineConfig().studies),
    f'Questions answered as well, each in a section of the report: {", ".join(STUDIES)}.',
)
define_study_flags()
define_checkpoint_flags()
define_task_flags()
define_reach_flags()
define_discovery_flags()
define_distillation_flags()
define_arms_flags()
define_machine_flags()


def main() -> None:
    """Runs all stages, prints the table of arms and writes the report."""
    from cdjax.report.write import write_report  # with matplotlib, which --help does not need

    config = PipelineConfig(
        inputs=reaching(inputs_from_flags()),
        discovery=discovery_from_flags(),
        study=study_from_flags(),
        arms=arms_from_flags(),
        layer_pairs=FLAGS.layer_pairs,
        most_pairs=FLAGS.most_pairs,
        rediscover=None if FLAGS.rediscover is None else tuple(FLAGS.rediscover),
        export=FLAGS.export,
        studies=tuple(FLAGS.studies),
    )
    if not config.arms.arms:
        about = 'is about students, and no arms are run: name arms, or leave it out'
        refuse_given(flags_of_students(), about)
    if not config.studies:
        searching = 'does searches of --studies at once, and none are asked: name one, or leave it'
        refuse_given(['workers'], f'{searching} out')
    options = run_options()
    pipeline = Pipeline(
        config, FLAGS.workdir, mesh=start_machine(), options=options, announce=announce
    )
    if pipeline.config.arms.arms:
        launch.say(pipeline.config.arms.describe())
    results = pipeline.run()
    report = write_report(pipeline.workdir, results)
    launch.say(summary(results))
    launch.say(f'report: {report}')
    launch.say_where(FLAGS.workdir)


if __name__ == '__main__':
    launch.run(main)
