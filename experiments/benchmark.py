"""Measures speed and memory beside what people use now, printed and written as JSON.

`python -m experiments.benchmark --suite=forward --shape=smollm2` compares with the peers that are
installed (`pip install -e '.[benchmark]'`); `--suite=all` runs all suites but
`checkpoint_memory`. Calls of ours and of the peers alternate, so that what else the machine does
falls on all alike.
"""

import tempfile
from pathlib import Path

from absl import flags
from etils import epath

from cdjax.errors import InputError
from cdjax.models.config import PRESETS
from cdjax.models.target_folder import require_file
from cdjax.run.results import to_text
from experiments import launch
from experiments.benchmarks import (
    attribution,
    checkpoint_memory,
    cka,
    forward,
    growth,
    startup,
    sweep,
)
from experiments.benchmarks.subject import SHAPES
from experiments.benchmarks.tables import to_markdown

_compared = lambda: {'shape': FLAGS.shape, 'rows': FLAGS.rows, 'rounds': FLAGS.rounds}
SPEED = {
    'forward': lambda folder: forward.run(folder, **_compared()),
    'sweep': lambda folder: sweep.run(folder, masks=FLAGS.masks, **_compared()),
    'attribution': lambda folder: attribution.run(folder, **_compared()),
    'cka': lambda folder: cka.run(folder, rounds=FLAGS.rounds),
    'growth': lambda folder: growth.run(folder, rounds=FLAGS.rounds),
    'startup': lambda folder: startup.run(folder, rounds=FLAGS.rounds),
}
SUITES = {
    **SPEED,
    'checkpoint_memory': lambda folder: checkpoint_memory.run(
        folder, model=FLAGS.model, devices=FLAGS.devices
    ),
}

FLAGS = flags.FLAGS
flags.DEFINE_enum('suite', None, [*SUITES, 'all'], 'What to measure.', required=True)
flags.DEFINE_enum('model', 'llama32_3b', PRESETS, 'Shapes of the checkpoint.')
flags.DEFINE_enum('shape', 'small', list(SHAPES), 'Shapes of the model whose speed is measured.')
flags.DEFINE_integer('rows', 256, 'Prompts of eight tokens.', lower_bound=1)
flags.DEFINE_integer('masks', 64, 'Circuits of the sweep.', lower_bound=1)
flags.DEFINE_integer('rounds', 5, 'Calls of each program.', lower_bound=1)
flags.DEFINE_integer('devices', 8, 'Simulated devices.', lower_bound=1)
flags.DEFINE_string('scratch', None, 'Folder for temporary files; the system default if not given.')
flags.DEFINE_string('output', None, 'JSON file to write the result to as well.')
flags.DEFINE_string('markdown', None, 'File to write the result to as tables of Markdown.')


def main() -> None:
    """Runs one suite, or all that measure speed."""
    for path in (FLAGS.output, FLAGS.markdown):
        if path is not None:
            require_file(epath.Path(path))
    if FLAGS.scratch is not None and not Path(FLAGS.scratch).is_dir():
        raise InputError(f'scratch={FLAGS.scratch} is no folder: make it, or name another')
    with tempfile.TemporaryDirectory(dir=FLAGS.scratch) as folder:
        names = list(SPEED) if FLAGS.suite == 'all' else [FLAGS.suite]
        results = {name: SUITES[name](Path(folder)) for name in names}
    one = {'suite': FLAGS.suite, **results[names[0]]}
    text = to_text(one if len(names) == 1 else {'suite': 'all', 'suites': results})
    launch.say(text.rstrip())
    if FLAGS.output is not None:
        epath.Path(FLAGS.output).write_text(text)
    if FLAGS.markdown is not None:
        epath.Path(FLAGS.markdown).write_text(to_markdown(results))


if __name__ == '__main__':
    launch.run(main)
