"""Stage 1: discovers the circuits of a model, or of a teacher and a student jointly.

Writes checkpoints, metrics.jsonl and circuits/MODEL.safetensors + .json into --workdir. A killed
run, started again with the same command, continues.

Example, half a minute on two CPU cores; the teacher that ships with the package:
    python -m experiments.discover --num_classes=4 --density=.05 --workdir=runs/discover
"""

from absl import flags

from cdjax.circuits.classes import CLASSES, ONE
from cdjax.report.terminal import kept_line, sanity_line
from cdjax.studies.discovery import DiscoveryStudyConfig, study_discovery
from experiments import launch
from experiments.announce import announce
from experiments.flags import (
    define_checkpoint_flags,
    define_discovery_flags,
    define_machine_flags,
    define_run_flags,
    define_task_flags,
    discovery_from_flags,
    inputs_from_flags,
    run_options,
    start_machine,
)
from experiments.flags.given import refuse_given

FLAGS = flags.FLAGS
define_run_flags('runs/discover')
define_checkpoint_flags()
define_task_flags()
define_discovery_flags()
define_machine_flags()
flags.DEFINE_string(
    'first_scores',
    DiscoveryStudyConfig().first_scores,
    'Circuits of the teacher whose ranking of neurons the search starts from (any_size); from '
    'nothing if not given.',
)
flags.DEFINE_string(
    'classes',
    DiscoveryStudyConfig().classes,
    f'How problems are sorted, one of {", ".join(CLASSES)}: by a classifier that is learned '
    'along with the masks, or beforehand (attribution and em read what the model predicts, and by '
    'that the answer; answer_matched shuffles the classes of --classes_of among equal answers).',
)
flags.DEFINE_string(
    'classes_of',
    DiscoveryStudyConfig().classes_of,
    'Circuits of the same problems whose classes are taken: as they are (--classes=learned), or '
    'shuffled (--classes=answer_matched).',
)


def main() -> None:
    """Discovers, saves, and prints what the circuits keep on unseen forms."""
    if FLAGS.classes == ONE.key and FLAGS.num_classes > 1:
        refuse_given(['num_classes'], f'is more than classes={ONE.key}: leave one of them out')
    config = DiscoveryStudyConfig(
        inputs_from_flags(),
        discovery_from_flags(),
        FLAGS.first_scores,
        FLAGS.classes,
        FLAGS.classes_of,
    )
    options = run_options()
    circuits = study_discovery(
        config,
        FLAGS.workdir,
        mesh=start_machine(),
        options=options,
        announce=announce,
        insist=FLAGS['num_classes'].present and FLAGS.classes != ONE.key,
    )
    if 'only_correct' in circuits['teacher'].info:
        launch.say(kept_line(circuits['teacher'].info['only_correct']))
    for name, circuit in circuits.items():
        figures = ', '.join(f'{k} {v:.1%}' for k, v in circuit.info['metrics'].items())
        launch.say(
            f'{name}: {circuit.num_classes} circuits of {circuit.size} neurons '
            f'({circuit.share:.1%}); {figures}'
        )
        launch.say(f'{name}: {sanity_line(circuit.info["sanity"])}')
    launch.say_where(FLAGS.workdir)


if __name__ == '__main__':
    launch.run(main)
