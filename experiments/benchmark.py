"""Measures speed and memory beside what people use now, printed and written as JSON.

Peers are compared with where they are installed (`pip install -e '.[benchmark]'`); `--suite=all`
runs all that measure speed. Calls of ours and of the peers alternate, so that what else the machine
does falls on all alike. Two suites measure memory, and one the programs of runs at the shapes of
Llama 3, each beside its plan: that one is for an accelerator.

Examples:
    python -m experiments.benchmark --suite=forward --shape=smollm2
    python -m experiments.benchmark --suite=checkpoint_memory --model=llama32_3b --devices=8
    python -m experiments.benchmark --suite=edit_memory --model=llama31_8b
    python -m experiments.benchmark --suite=programs --model=llama31_8b --length=1024
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from etils import epath

from cdjax.errors import InputError
from cdjax.models.config import PRESETS, LlamaConfig
from cdjax.models.target_folder import require_file
from cdjax.planning.job import DTYPES
from cdjax.run.options import TOKENS_PER_PASS
from cdjax.run.results import to_text
from cdjax.wording import choose_from, count
from experiments import launch
from experiments.announce import announce_measuring
from experiments.benchmarks import (
    attribution,
    checkpoint_memory,
    cka,
    demo,
    distillation,
    edit_memory,
    forward,
    growth,
    programs,
    startup,
    sweep,
    training,
)
from experiments.benchmarks.subject import DTYPE, LENGTH, SHAPES
from experiments.benchmarks.tables import to_markdown
from experiments.flags import define_dry_run_flag
from experiments.flags.given import refuse_given
from experiments.help_page import OWN, by_group
from experiments.output import check_output, write_output


class Suite(NamedTuple):
    """What is measured: with a folder for temporary files, and with the flags that it reads."""

    run: Callable[..., dict[str, Any]]
    reads: tuple[str, ...] = ()


FLAGS = flags.FLAGS
JOBS = ('discover', 'distill')
_COMPARED = ('shape', 'rows', 'rounds', 'dtype')
SPEED = {
    'forward': Suite(forward.run, _COMPARED),
    'sweep': Suite(sweep.run, ('masks', *_COMPARED)),
    'attribution': Suite(attribution.run, _COMPARED),
    'cka': Suite(lambda _, **given: cka.run(**given), ('rounds',)),
    'distillation': Suite(distillation.run, ('rounds',)),
    'training': Suite(lambda _, **given: training.run(**given), ('shape', 'rows', 'rounds')),
    'growth': Suite(lambda _, **given: growth.run(**given), ('rounds',)),
    'startup': Suite(startup.run, ('rounds',)),
    'demo': Suite(demo.run),
}
SUITES = {
    **SPEED,
    'programs': Suite(
        lambda _, **given: _run_programs(**given),
        ('model', 'student', 'length', 'tokens_per_pass', 'batch_size', 'jobs', 'rounds'),
    ),
    'checkpoint_memory': Suite(checkpoint_memory.run, ('model', 'devices')),
    'edit_memory': Suite(
        lambda _, model, **given: edit_memory.run(LlamaConfig.preset(model), **given),
        ('model', 'prefix', 'question', 'batch_size'),
    ),
}

flags.DEFINE_enum('suite', None, [*SUITES, 'all'], 'What to measure; required.', required=True)
flags.DEFINE_enum('model', 'llama32_3b', PRESETS, 'Shapes of the model (memory, programs).')
flags.DEFINE_enum('student', 'llama32_1b', PRESETS, 'Shapes of a student of it (programs).')
flags.DEFINE_enum('shape', 'small', list(SHAPES), 'Shapes of the model (speed).')
flags.DEFINE_enum('dtype', DTYPE, DTYPES, 'Of weights and computation (speed).')
flags.DEFINE_integer('rows', 256, 'Prompts of eight tokens (speed).', lower_bound=1)
flags.DEFINE_integer('masks', 64, 'Circuits of a sweep.', lower_bound=1)
flags.DEFINE_integer('rounds', 5, 'Calls of each program (speed).', lower_bound=1)
flags.DEFINE_integer('devices', 8, 'Simulated devices.', lower_bound=1)
flags.DEFINE_integer('prefix', 64, 'Tokens of a few-shot prefix (edit_memory).', lower_bound=0)
flags.DEFINE_integer('question', 6, 'Tokens behind it (edit_memory).', lower_bound=1)
flags.DEFINE_integer('batch_size', 64, 'Problems of a step (edit_memory, programs).', lower_bound=8)
flags.DEFINE_integer('length', LENGTH, 'Positions of a row (programs).', lower_bound=2)
flags.DEFINE_integer(
    'tokens_per_pass', TOKENS_PER_PASS, 'Tokens of a pass of the teacher (programs).', lower_bound=8
)
flags.DEFINE_list('jobs', list(JOBS), 'Whose programs run (programs).')
flags.DEFINE_string('scratch', None, 'Folder for temporary files; the system default if not given.')
flags.DEFINE_string('output', None, 'JSON file to write the result to as well.')
flags.DEFINE_string('markdown', None, 'File to write the result to as tables of Markdown.')
flags.DEFINE_string('figure', None, 'SVG file to draw the curves to (growth).')
define_dry_run_flag('what would be measured, with what')


def _run_programs(model, student, jobs, rounds, **sizes) -> dict[str, Any]:
    made = programs.make_jobs(LlamaConfig.preset(model), LlamaConfig.preset(student), **sizes)
    return programs.run({name: made[name] for name in jobs}, rounds=rounds)


def main() -> None:
    """Runs one suite, or all that measure speed."""
    if FLAGS.output is not None:
        check_output(FLAGS.output, 'suite', 'a benchmark')
    for path in (FLAGS.markdown, FLAGS.figure):
        if path is not None:
            require_file(epath.Path(path))
    if FLAGS.figure is not None and FLAGS.suite not in ('growth', 'all'):
        raise InputError(f'figure={FLAGS.figure} is of suite=growth: leave it out')
    if unknown := [job for job in FLAGS.jobs if job not in JOBS]:
        raise InputError(f'jobs={unknown[0]}: {choose_from(unknown[0], JOBS)}')
    if FLAGS.scratch is not None and not Path(FLAGS.scratch).is_dir():
        raise InputError(f'scratch={FLAGS.scratch} is no folder: make it, or name another')
    names = list(SPEED) if FLAGS.suite == 'all' else [FLAGS.suite]
    read = {name for suite in names for name in SUITES[suite].reads}
    of_suites = {name for suite in SUITES.values() for name in suite.reads}
    refuse_given(sorted(of_suites - read), f'is not read by suite={FLAGS.suite}: leave it out')
    announce_measuring(
        f'benchmark: {", ".join(names)}; of speed {count(FLAGS.rounds, "round")} of each program',
        {name: FLAGS[name].value for name in by_group()[OWN]},
        time='some minutes a suite on two CPU cores',
    )
    with tempfile.TemporaryDirectory(dir=FLAGS.scratch) as folder:
        given = lambda suite: {name: FLAGS[name].value for name in suite.reads}
        results = {name: SUITES[name].run(Path(folder), **given(SUITES[name])) for name in names}
    content = {'suites': results} if FLAGS.suite == 'all' else results[FLAGS.suite]
    result = {'suite': FLAGS.suite, **content}
    launch.say(to_text(result).rstrip())
    if FLAGS.output is not None:
        write_output(FLAGS.output, result)
    if FLAGS.markdown is not None:
        epath.Path(FLAGS.markdown).write_text(to_markdown(results))
    if FLAGS.figure is not None:
        from experiments.benchmarks.figure import draw  # with matplotlib, slow to import

        epath.Path(FLAGS.figure).write_text(draw(results['growth']['curves']))
    written = [path for path in (FLAGS.output, FLAGS.markdown, FLAGS.figure) if path is not None]
    if written:
        launch.say(f'everything is in {", ".join(written)}')


if __name__ == '__main__':
    launch.run(main)
