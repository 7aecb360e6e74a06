"""Flags of the study of circuits: how they are measured, and against what."""

from absl import flags

from cdjax.circuits.ablation import ABLATIONS
from cdjax.circuits.methods import METHODS
from cdjax.errors import InputError
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.methods import methods_by_default
from experiments.flags.groups import group

FLAGS = flags.FLAGS


@group('How circuits are measured')
def define_study_flags(*, trained: bool = True) -> None:
    """Defines how circuits are measured, and against what; see `study_from_flags`.

    Args:
        trained: whether methods that train masks of their own can be run.
    """
    default = CircuitStudyConfig()
    flags.DEFINE_list(
        'sizes', [str(size) for size in default.sizes], 'Sizes measured, as shares of the neurons.'
    )
    flags.DEFINE_bool('areas', default.areas, 'Measure sizes .001 to 1 too, for CPR and CMD.')
    flags.DEFINE_list(
        'ablation',
        list(default.ablations),
        f'Fate of the other neurons, one or more of {", ".join(ABLATIONS)}; neurons are scored '
        'under the first.',
    )
    flags.DEFINE_integer(
        'evaluate_problems', default.max_problems, 'Problems of unseen forms evaluated, at most.'
    )
    flags.DEFINE_list(
        'methods',
        list(methods_by_default(trained=trained)),
        f'What the circuits are held against, of {", ".join(_methods(trained))}.',
    )


def study_from_flags(*, trained: bool = True) -> CircuitStudyConfig:
    """Returns the study that the flags describe.

    Args:
        trained: as for `define_study_flags`.

    Raises:
        InputError: a value out of range, or an unknown method.
    """
    try:
        sizes = tuple(sorted(float(size) for size in FLAGS.sizes))
    except ValueError:
        raise InputError(f'sizes={",".join(FLAGS.sizes)}: write shares such as .05,.1') from None
    return CircuitStudyConfig(
        sizes=sizes,
        areas=FLAGS.areas,
        methods=tuple(METHODS.find(key, _methods(trained)).key for key in FLAGS.methods),
        max_problems=FLAGS.evaluate_problems,
        ablations=tuple(FLAGS.ablation),
    )


def _methods(trained: bool) -> list[str]:
    return [key for key, method in METHODS.items() if trained or not method.trains]
