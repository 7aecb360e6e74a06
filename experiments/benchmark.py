"""Measures what the README claims: one suite a run, printed and written as JSON.

`python -m experiments.benchmark --suite=checkpoint_memory --model=llama32_3b --devices=8`
`python -m experiments.benchmark --suite=edit_memory --model=llama31_8b`
"""

import tempfile
from pathlib import Path

from absl import flags

from cdjax.errors import InputError
from cdjax.models.config import PRESETS, LlamaConfig
from cdjax.run.results import to_text
from experiments import launch
from experiments.benchmarks import checkpoint_memory, edit_memory
from experiments.output import check_output, write_output

SUITES = {
    'checkpoint_memory': lambda folder: checkpoint_memory.run(
        folder, model=FLAGS.model, devices=FLAGS.devices
    ),
    'edit_memory': lambda _: edit_memory.run(
        LlamaConfig.preset(FLAGS.model),
        prefix=FLAGS.prefix,
        question=FLAGS.question,
        batch_size=FLAGS.batch_size,
    ),
}

FLAGS = flags.FLAGS
flags.DEFINE_enum('suite', None, list(SUITES), 'What to measure.', required=True)
flags.DEFINE_enum('model', 'llama32_3b', PRESETS, 'Shapes of the model.')
flags.DEFINE_integer('devices', 8, 'Simulated devices.', lower_bound=1)
flags.DEFINE_integer('prefix', 64, 'Tokens of a few-shot prefix (edit_memory).', lower_bound=0)
flags.DEFINE_integer('question', 6, 'Tokens behind it (edit_memory).', lower_bound=1)
flags.DEFINE_integer('batch_size', 64, 'Problems of a step (edit_memory).', lower_bound=8)
flags.DEFINE_string('scratch', None, 'Folder for temporary files; the system default if not given.')
flags.DEFINE_string('output', None, 'JSON file to write the result to as well.')


def main() -> None:
    """Runs one suite."""
    if FLAGS.output is not None:
        check_output(FLAGS.output, 'suite', 'a benchmark')
    if FLAGS.scratch is not None and not Path(FLAGS.scratch).is_dir():
        raise InputError(f'scratch={FLAGS.scratch} is no folder: make it, or name another')
    with tempfile.TemporaryDirectory(dir=FLAGS.scratch) as folder:
        result = {'suite': FLAGS.suite, **SUITES[FLAGS.suite](Path(folder))}
    launch.say(to_text(result).rstrip())
    if FLAGS.output is not None:
        write_output(FLAGS.output, result)


if __name__ == '__main__':
    launch.run(main)
