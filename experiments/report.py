"""Rebuilds report.html of a finished pipeline from its stored results, without training.

Examples, of one run, of one of its figures, and a page on two:
    python -m experiments.report runs/demo
    python -m experiments.report runs/demo --figure=methods-1 --output=methods.svg
    python -m experiments.report --compare runs/demo runs/other --output=compare.html
"""

from absl import flags
from etils import epath

from cdjax.errors import InputError
from experiments import launch
from experiments.announce import announce_measuring
from experiments.flags import define_dry_run_flag

FLAGS = flags.FLAGS
flags.DEFINE_string(
    'workdir', 'runs/pipeline', 'Folder of a finished pipeline, where it is no argument.'
)
flags.DEFINE_bool('compare', False, 'Compare two runs, the arguments, on a page of their own.')
flags.DEFINE_string(
    'figure', None, 'Save this figure of the report, named as its SVG link saves it.'
)
flags.DEFINE_string(
    'output', None, 'The page of --compare (compare.html), or the file of --figure (FIGURE.svg).'
)
define_dry_run_flag('which page would be made of what')


def main(*workdirs: str) -> None:
    """Prints the table of a run and writes its report, or compares two."""
    from cdjax.report.compare import read_runs, write_comparison
    from cdjax.report.figure_file import take_figure
    from cdjax.report.terminal import summary
    from cdjax.report.write import REPORT, read_results, write_report
    from cdjax.run.folder import write_atomically

    if FLAGS.compare:
        if len(workdirs) != 2:
            raise InputError(
                f'--compare takes the folders of two runs, and here are {len(workdirs)}: '
                'python -m experiments.report --compare runs/first runs/second'
            )
        if FLAGS.figure is not None:
            raise InputError(
                f'figure={FLAGS.figure} is taken out of the report of one run: leave out --compare'
            )
        runs, target = read_runs(*workdirs), FLAGS.output or 'compare.html'
        announce_measuring(
            f'report: {" beside ".join(workdirs)}', {'runs': workdirs, 'page': target}
        )
        write_comparison(runs, target)
        launch.say(f'everything is in {target}')
        return
    if len(workdirs) > 1:
        raise InputError(f'{" ".join(workdirs)}: name one run, or add --compare')
    workdir = workdirs[0] if workdirs else FLAGS.workdir
    results, facts = read_results(workdir), {'run': workdir, 'page': f'{workdir}/{REPORT}'}
    if FLAGS.figure is not None:
        facts['figure'] = target = FLAGS.output or f'{FLAGS.figure}.svg'
    announce_measuring(f'report: of {workdir}, from what it has stored', facts)
    launch.say(summary(results))
    page = write_report(workdir, results)
    if FLAGS.figure is not None:
        write_atomically(epath.Path(target), take_figure(page.read_text(), FLAGS.figure))
        launch.say(f'figure: {target}')
    launch.say(f'everything is in {page}')


if __name__ == '__main__':
    launch.run(main, words=2)
