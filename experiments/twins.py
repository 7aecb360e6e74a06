"""Whose rule do students follow where their teachers' answers to the share cannot tell?

Trains pairs of planted teachers that answer alike wherever two cues agree, and go by one of them
each; distils students from both where the cues agree, by KD and by arms that align the planted
circuits; and asks them where the cues differ. Frozen beforehand: arms, seeds, endpoint, contrasts.
A killed run, started again with the same command, continues; --workers=6 makes as many tables of
students at a time, each with its teacher.

Example, 50 minutes of one CPU core; what it is going to do is told by --dry_run:
    python -m experiments.twins --workdir=runs/twins --dry_run
"""

import dataclasses

from absl import flags

from cdjax.errors import InputError
from cdjax.report.twins import twins_table
from cdjax.studies.twins import TwinsProtocol, study_twins
from experiments import launch
from experiments.announce import announce
from experiments.flags import (
    define_machine_flags,
    define_run_flags,
    define_workers_flag,
    run_options,
    start_machine,
)
from experiments.flags.distillation import integers
from experiments.output import write_output

FLAGS = flags.FLAGS
define_run_flags('runs/twins')
define_workers_flag('teachers, each with its students,')
define_machine_flags()
flags.DEFINE_list(
    'teachers', [], 'Seeds of pairs of teachers: a reduced protocol; all of it if not given.'
)
flags.DEFINE_list('seeds', [], 'Seeds of students: a reduced protocol; all of it if not given.')
flags.DEFINE_list(
    'only',
    [],
    'Tables of students that this process makes, such as lookup_second-0, the others being left '
    'to other machines with folders of their own: copy their results/*.json into one folder, and '
    'the command without this flag judges all of them.',
)


def main() -> None:
    """Runs the study and prints whose rule is followed, and the verdicts."""
    protocol = TwinsProtocol()
    teachers, seeds = integers('teachers', '0,1'), integers('seeds', '0,1,2')
    known = ((teachers, protocol.teachers), (seeds, protocol.arms.seeds))
    if any(len(set(some) & set(every)) < len(some) for some, every in known):
        raise InputError(
            f'teachers={",".join(FLAGS.teachers)}, seeds={",".join(FLAGS.seeds)}: name some of '
            f'{",".join(map(str, protocol.teachers))} and of '
            f'{",".join(map(str, protocol.arms.seeds))}, each of them once'
        )
    protocol = dataclasses.replace(
        protocol,
        teachers=teachers or protocol.teachers,
        arms=dataclasses.replace(protocol.arms, seeds=seeds or protocol.arms.seeds),
    )
    options = run_options()
    results = study_twins(
        protocol,
        FLAGS.workdir,
        only=FLAGS.only,
        mesh=start_machine(),
        options=options,
        announce=announce,
    )
    if not FLAGS.only:
        write_output(f'{FLAGS.workdir}/twins.json', results)
        launch.say(twins_table(results))
    launch.say_where(FLAGS.workdir)


if __name__ == '__main__':
    launch.run(main)
