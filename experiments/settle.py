"""Settles a question by a frozen protocol: the gates first, then the study, then the verdicts.

--protocol=planted asks of the search for circuits what it finds where circuits were planted, and
where nothing was; null what it finds where one circuit serves all problems; embedded compares masks
and classes in the teacher that ships with the package, and llama in a checkpoint of yours, if the
gates are passed. A killed run, started again with the same command, continues; --workers=10 does as
many teachers or seeds at a time.

Example, 42 minutes on one CPU core; what it is going to do is told by --dry_run:
    python -m experiments.settle --protocol=planted --workdir=runs/settle --dry_run
"""

from typing import Any

from absl import flags

from cdjax.errors import InputError
from cdjax.report.verdicts import curves_table, verdict_table
from cdjax.studies.settle import (
    PROTOCOLS,
    TITLES,
    ComparisonProtocol,
    PlantedProtocol,
    protocol,
    settle,
)
from cdjax.wording import count
from experiments import launch
from experiments.announce import announce
from experiments.flags import (
    define_checkpoint_flags,
    define_least_accuracy_flag,
    define_machine_flags,
    define_run_flags,
    define_task_flags,
    define_workers_flag,
    inputs_from_flags,
    least_accuracy_from_flags,
    run_options,
    start_machine,
)

FLAGS = flags.FLAGS
define_run_flags('runs/settle')
define_workers_flag('teachers and seeds')
flags.DEFINE_enum('protocol', PROTOCOLS[0], list(PROTOCOLS), 'What is settled, and how.')
flags.DEFINE_string(
    'gates',
    None,
    'Folder of a finished run of --protocol=planted, whose gates are taken; run if not given.',
)
flags.DEFINE_bool(
    'stop_at_gates', True, 'Compare nothing where the gates are not passed; otherwise only say so.'
)
flags.DEFINE_list(
    'seeds',
    [],
    'Some of the seeds of a comparison: a reduced protocol, with a hash of its own; all if empty.',
)
define_checkpoint_flags()
define_task_flags()
define_least_accuracy_flag()
define_machine_flags()


def main() -> None:
    """Runs the protocol and prints the verdicts."""
    try:
        seeds = tuple(map(int, FLAGS.seeds))
    except ValueError:
        raise InputError(f'seeds={",".join(FLAGS.seeds)}: write integers such as 0,1') from None
    frozen = protocol(FLAGS.protocol, inputs_from_flags(), seeds, least_accuracy_from_flags())
    reduced = f' (reduced to {count(len(seeds), "seed")})' if seeds else ''
    options = run_options()
    results = settle(
        frozen,
        FLAGS.workdir,
        mesh=start_machine(),
        gates=FLAGS.gates,
        stop_at_gates=FLAGS.stop_at_gates,
        options=options,
        announce=announce,
    )
    gates = results['gates']
    launch.say(verdict_table(f'Gates, protocol {gates["protocol"]}', gates['verdicts']))
    for ablation, found in (results['comparison'] or {}).items():
        title = f'{ablation} ablation, protocol {results["protocol"]}{reduced}'
        table = curves_table(title, frozen.sizes, found['curves'], found['bits'], TITLES)
        launch.say(f'\n{table}\n')
        launch.say(verdict_table('', found['verdicts']))
    if not gates['passed']:
        launch.say(f'the gates are not passed: {_behind_gates(frozen, results)}')
    launch.say_where(FLAGS.workdir)


def _behind_gates(frozen: PlantedProtocol | ComparisonProtocol, results: dict[str, Any]) -> str:
    """Returns what is to be thought of a comparison whose gates are not passed."""
    if results['comparison'] is not None:
        return 'the comparison is that of a search which is not known to find what is there'
    untold = 'what follows them would tell nothing'
    if isinstance(frozen, PlantedProtocol):
        return untold
    return f'{untold}; --nostop_at_gates with another --workdir compares all the same'


if __name__ == '__main__':
    launch.run(main)
