"""Rebuilds report.html of a finished pipeline from its stored results, without training.

Examples, of one run, and a page on two:
    python -m experiments.report runs/demo
    python -m experiments.report --compare runs/demo runs/other --output=compare.html
"""

from absl import flags

from cdjax.errors import InputError
from experiments import launch
from experiments.announce import announce_measuring
from experiments.flags import define_dry_run_flag

FLAGS = flags.FLAGS
flags.DEFINE_string(
    'workdir', 'runs/pipeline', 'Folder of a finished pipeline, where it is no argument.'
)
flags.DEFINE_bool('compare', False, 'Compare two runs, the arguments, on a page of their own.')
flags.DEFINE_string('output', 'compare.html', 'The page of --compare.')
define_dry_run_flag('which page would be made of what')


def main(*workdirs: str) -> None:
    """Prints the table of a run and writes its report, or compares two."""
    from cdjax.report.compare import read_runs, write_comparison
    from cdjax.report.terminal import summary
    from cdjax.report.write import REPORT, read_results, write_report

    if FLAGS.compare:
        if len(workdirs) != 2:
            raise InputError(
                f'--compare takes the folders of two runs, and here are {len(workdirs)}: '
                'python -m experiments.report --compare runs/first runs/second'
            )
        runs = read_runs(*workdirs)
        announce_measuring(
            f'report: {" beside ".join(workdirs)}', {'runs': workdirs, 'page': FLAGS.output}
        )
        write_comparison(runs, FLAGS.output)
        launch.say(f'everything is in {FLAGS.output}')
        return
    if len(workdirs) > 1:
        raise InputError(f'{" ".join(workdirs)}: name one run, or add --compare')
    workdir = workdirs[0] if workdirs else FLAGS.workdir
    results = read_results(workdir)
    announce_measuring(
        f'report: of {workdir}, from what it has stored',
        {'run': workdir, 'page': f'{workdir}/{REPORT}'},
    )
    launch.say(summary(results))
    launch.say(f'everything is in {write_report(workdir, results)}')


if __name__ == '__main__':
    launch.run(main, words=2)
