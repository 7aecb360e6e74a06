"""Flags of the study of circuits: how they are measured, and against what."""

from absl import flags

from cdjax.circuits.ablation import ABLATIONS
from cdjax.errors import InputError
from cdjax.studies.circuits import LEARNED_CONTROLS, CircuitStudyConfig

FLAGS = flags.FLAGS


def define_study_flags(*, controls: bool = True) -> None:
    """Defines how circuits are measured; see `study_from_flags`.

    Args:
        controls: whether controls are trained too.
    """
    default = CircuitStudyConfig()
    flags.DEFINE_list(
        'sizes', [str(size) for size in default.sizes], 'Sizes measured, as shares of the neurons.'
    )
    flags.DEFINE_enum('ablation', default.ablation, ABLATIONS, 'Fate of the other neurons.')
    flags.DEFINE_integer(
        'evaluate_problems', default.max_problems, 'Problems of unseen forms evaluated, at most.'
    )
    if controls:
        flags.DEFINE_list(
            'controls',
            list(default.controls),
            f'Controls whose masks are learned too: {", ".join(LEARNED_CONTROLS)}.',
        )


def study_from_flags() -> CircuitStudyConfig:
    """Returns the study that the flags describe.

    Raises:
        InputError: a value out of range, or an unknown control.
    """
    try:
        sizes = tuple(sorted(float(size) for size in FLAGS.sizes))
    except ValueError:
        raise InputError(f'sizes={",".join(FLAGS.sizes)}: write shares such as .05,.1') from None
    return CircuitStudyConfig(
        sizes=sizes,
        controls=tuple(FLAGS.controls) if 'controls' in FLAGS else (),
        max_problems=FLAGS.evaluate_problems,
        ablation=FLAGS.ablation,
    )
