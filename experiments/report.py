"""Rebuilds report.html of a finished pipeline from its stored results, without training.

`python -m experiments.report runs/pipeline`
"""

from absl import flags

from experiments import launch

FLAGS = flags.FLAGS
flags.DEFINE_string(
    'workdir', 'runs/pipeline', 'Folder of a finished pipeline, if not an argument.'
)


def main() -> None:
    """Prints the table of the run and writes its report."""
    from cdjax.report.terminal import summary
    from cdjax.report.write import read_results, write_report

    results = read_results(FLAGS.workdir)
    print(summary(results))
    print(f'report: {write_report(FLAGS.workdir, results)}')


if __name__ == '__main__':
    launch.run(main)
