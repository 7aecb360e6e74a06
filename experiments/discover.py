"""Stage 1: discovers the circuits of a model, or of a teacher and a student jointly.

Writes checkpoints, metrics.jsonl and circuits/MODEL.safetensors + .json into --workdir.
"""

from absl import flags

from cdjax.report.terminal import kept_line
from cdjax.studies.discovery import DiscoveryStudyConfig, study_discovery
from experiments import launch
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


def main() -> None:
    """Discovers, saves, and prints what the circuits keep on unseen forms."""
    config = DiscoveryStudyConfig(inputs_from_flags(), discovery_from_flags(), FLAGS.first_scores)
    options = run_options()
    circuits = study_discovery(config, FLAGS.workdir, mesh=start_machine(), options=options)
    if 'only_correct' in circuits['teacher'].info:
        launch.say(kept_line(circuits['teacher'].info['only_correct']))
    for name, circuit in circuits.items():
        figures = ', '.join(f'{k} {v:.1%}' for k, v in circuit.info['metrics'].items())
        launch.say(
            f'{name}: {circuit.num_classes} circuits of {circuit.size} neurons '
            f'({circuit.share:.1%}); {figures}; saved to {FLAGS.workdir}/circuits'
        )


if __name__ == '__main__':
    launch.run(main)
