"""Flags of the folder of a run, and of what its trainings write there."""

from absl import flags, logging
from etils import epath

from cdjax.errors import InputError
from cdjax.models import Llama
from cdjax.run.options import RunOptions
from cdjax.training.loop import best_parameters

FLAGS = flags.FLAGS

# The evaluation by which the best checkpoint is kept.
BEST = ('accuracy', 'max')


def define_run_flags(workdir: str) -> None:
    """Defines where a run is kept and what its trainings write; see `run_options`.

    A run of several trainings keeps each in a folder of its own, below WORKDIR/stages.
    """
    default = RunOptions()
    flags.DEFINE_string('workdir', workdir, 'Folder of the run.')
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


def run_options() -> RunOptions:
    """Returns what `define_run_flags` defines.

    Raises:
        InputError: a value out of range.
    """
    if 'evaluate_every' in FLAGS and FLAGS.evaluate_every < 1:
        raise InputError(f'evaluate_every={FLAGS.evaluate_every} must be at least 1')
    return RunOptions(
        checkpoint_every=FLAGS.checkpoint_every,
        profile_steps=_profile_steps(),
        check_gradients=FLAGS.check_gradients,
        diagnose_every=FLAGS.diagnose_every,
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


def define_export_flag() -> None:
    """Defines which parameters of a training with evaluations are exported; see `exported`."""
    flags.DEFINE_enum(
        'export',
        'last',
        ['last', 'best'],
        'Which step is exported: the last, or the best by accuracy on the evaluated problems '
        '(which is then optimistic). Both are kept in WORKDIR/checkpoints.',
    )


def exported(model: Llama, workdir: epath.Path) -> Llama:
    """Returns the model of the step that --export asks for, given that of the last one."""
    if FLAGS.export == 'last':
        return model
    model, step = best_parameters(workdir, model, BEST)
    logging.warning('exporting step %d, chosen by the very problems it is evaluated on', step)
    return model
