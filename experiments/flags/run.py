"""Flags of the folder of a run, and of what its trainings write there."""

from absl import flags

from cdjax.errors import InputError
from cdjax.run.options import RunOptions
from cdjax.studies.trained import EXPORTS
from experiments.flags.groups import group

FLAGS = flags.FLAGS


@group('The run')
def define_run_flags(workdir: str) -> None:
    """Defines where a run is kept and what its trainings write; see `run_options`.

    A run of several trainings keeps each in a folder of its own, below WORKDIR/stages.
    """
    default = RunOptions()
    flags.DEFINE_string('workdir', workdir, 'Folder of the run.')
    define_dry_run_flag('configuration, stages, steps and memory, and what of it is done')
    flags.DEFINE_integer('checkpoint_every', default.checkpoint_every, 'Steps between checkpoints.')
    flags.DEFINE_string(
        'profile_steps',
        default.profile_steps,
        "FIRST:END, steps of which profile/ in each training's folder gets a profiler trace.",
    )
    flags.DEFINE_integer(
        'diagnose_every',
        default.diagnose_every,
        'Steps between reports on the gradient of each term, in metrics.jsonl and gradients/.',
    )
    flags.DEFINE_bool(
        'check_gradients',
        default.check_gradients,
        'Begin with a report on the gradient of each term, and stop if a term trains nothing; it '
        'takes the memory of one more gradient.',
    )
    define_pass_flag()


@group('The run')
def define_dry_run_flag(what: str) -> None:
    """Defines the flag that has a launcher print `what`, and end there."""
    flags.DEFINE_bool('dry_run', False, f'Print {what}; run nothing.')


@group('The run')
def define_workers_flag(parts: str) -> None:
    """Defines how many parts of a run are done at once; see `run_options`.

    Args:
        parts: what they are, for the help.
    """
    flags.DEFINE_integer(
        'workers',
        RunOptions().workers,
        f'Processes that do {parts} at once, each with its share of the CPU cores.',
    )


@group('The run')
def define_pass_flag() -> None:
    """Defines how much of a data set goes through a model at once; see `run_options`."""
    flags.DEFINE_integer(
        'tokens_per_pass',
        RunOptions().tokens_per_pass,
        'Tokens that go through a model at once, over all devices, where nothing is trained.',
    )


def run_options() -> RunOptions:
    """Returns what `define_run_flags` defines, or `define_pass_flag` alone.

    Raises:
        InputError: a value out of range.
    """
    passes = {'tokens_per_pass': FLAGS.tokens_per_pass}
    if 'workdir' not in FLAGS:
        return RunOptions(**passes)
    return RunOptions(
        checkpoint_every=FLAGS.checkpoint_every,
        profile_steps=_profile_steps(),
        check_gradients=FLAGS.check_gradients,
        diagnose_every=FLAGS.diagnose_every,
        workers=FLAGS.workers if 'workers' in FLAGS else RunOptions().workers,
        **passes,
    )


def _profile_steps() -> tuple[int, int] | None:
    if FLAGS.profile_steps is None:
        return None
    try:
        first, end = map(int, FLAGS.profile_steps.split(':'))
    except ValueError:
        raise InputError(
            f'profile_steps={FLAGS.profile_steps}: write FIRST:END, such as 10:15'
        ) from None
    return first, end


@group('The run')
def define_export_flag(default: str) -> None:
    """Defines which parameters of a training with evaluations are exported."""
    flags.DEFINE_enum(
        'export',
        default,
        EXPORTS,
        'Which step is exported: the last, or the best by accuracy on the evaluated problems '
        '(which is then optimistic). Both are kept in WORKDIR/checkpoints.',
    )
