"""Makes report.html of a finished pipeline or table of arms from what it stored, without training.

Examples, of one run, of one of its figures, and a page on two (pipelines or tables of arms):
    python -m experiments.report runs/demo
    python -m experiments.report runs/demo --figure=methods-1 --output=methods.svg
    python -m experiments.report --compare runs/demo runs/other --output=compare.html
"""

from absl import flags
from etils import epath

from cdjax.errors import InputError
from cdjax.models.target_folder import require_file
from experiments import launch
from experiments.announce import announce_measuring
from experiments.flags import define_dry_run_flag

FLAGS = flags.FLAGS
SECONDS = 'some seconds'  # is how long a page takes
flags.DEFINE_string(
    'workdir',
    'runs/pipeline',
    'Folder of a finished pipeline or of a table of arms, where it is no argument.',
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
    from cdjax.report.arms_report import holds_table, read_table, table_page
    from cdjax.report.compare import read_runs, students_lines, write_comparison
    from cdjax.report.figure_file import take_figure
    from cdjax.report.terminal import arms_summary, summary
    from cdjax.report.write import REPORT, read_results, run_page
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
        target = _target('compare', '.html')
        runs = read_runs(*workdirs)
        announce_measuring(
            f'report: {" beside ".join(workdirs)}',
            {'runs': workdirs, 'page': target},
            time=SECONDS,
        )
        write_comparison(runs, target)
        if lines := students_lines(runs):
            launch.say(lines)
        launch.say(f'everything is in {target}')
        return
    if len(workdirs) > 1:
        raise InputError(f'{" ".join(workdirs)}: name one run, or add --compare')
    if workdirs and FLAGS['workdir'].present:
        raise InputError(f'workdir={FLAGS.workdir} and {workdirs[0]}: name one run')
    workdir = workdirs[0] if workdirs else FLAGS.workdir
    target, path = None, f'{workdir}/{REPORT}'
    facts = {'run': workdir, 'page': path}
    if FLAGS.figure is not None:
        facts['figure'] = target = _target(FLAGS.figure, '.svg')
    elif FLAGS.output is not None:
        raise InputError(
            f'output={FLAGS.output} is for --compare or --figure: the report of a run is {path}'
        )
    table = holds_table(workdir)
    results = read_table(workdir) if table else read_results(workdir)
    page = table_page(workdir, results) if table else run_page(workdir, results)
    figure = None if target is None else take_figure(page, FLAGS.figure)
    announce_measuring(f'report: of {workdir}, from what it has stored', facts, time=SECONDS)
    write_atomically(epath.Path(path), page)
    launch.say(arms_summary(results) if table else summary(results))
    if figure is not None:
        write_atomically(epath.Path(target), figure)
        launch.say(f'figure: {target}')
    launch.say(f'everything is in {path}')


def _target(name: str, ending: str) -> str:
    """Returns the file to write, refused where it cannot be one, or is something else's."""
    target = f'{name}{ending}' if FLAGS.output is None else FLAGS.output
    if not target.endswith(ending):
        raise InputError(f'output={target}: name a file that ends with {ending}')
    require_file(epath.Path(target))
    return target


if __name__ == '__main__':
    launch.run(main, words=2)
