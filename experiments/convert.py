"""Converts a Llama checkpoint: Hugging Face to Orbax and back, or to another dtype.

With --check the certificate TARGET.parity.json says how far logits and residual stream of every
layer are from transformers' in float32 and bfloat16, as loaded and again as written; a model that
does not compute the same is refused.

With --keep_layers the target is a smaller model, of some layers alone: a student to distil into.

Example, seconds on one CPU core; the teacher of the package to Orbax (--check needs torch):
    python -m experiments.convert --source=cdjax/assets/teacher --target=runs/orbax --check
"""

import math

from absl import flags

from cdjax.errors import InputError
from cdjax.models.conversion import FORMATS, Conversion, certificate_path, convert
from cdjax.models.huggingface_export import MAX_SHARD_BYTES
from cdjax.models.parity import describe_certificate
from experiments import launch
from experiments.announce import announce_measuring
from experiments.flags import define_dry_run_flag, define_machine_flags, start_machine

FLAGS = flags.FLAGS
flags.DEFINE_string(
    'source',
    None,
    'Hugging Face folder, hub id, or a folder made by --to=orbax; required.',
    required=True,
)
flags.DEFINE_string(
    'target', None, 'Folder to make; must not exist, or be empty; required.', required=True
)
flags.DEFINE_enum('to', None, FORMATS, 'Format of the target; the one that --source is not in.')
flags.DEFINE_enum(
    'dtype',
    None,
    ['float32', 'bfloat16', 'float16'],
    'Dtype of the target; as stored if not given.',
)
flags.DEFINE_float(
    'max_shard_gb', MAX_SHARD_BYTES / 1e9, 'Largest file of a Hugging Face target, in 10^9 bytes.'
)
flags.DEFINE_bool('check', False, 'Write the parity certificate TARGET.parity.json (needs torch).')
flags.DEFINE_string('golden', None, 'Compare with this golden file in place of torch.')
flags.DEFINE_string('save_golden', None, "Store transformers' results here, as a golden file.")
flags.DEFINE_list('keep_layers', None, 'Layers of the target, such as 0,2,4; all if not given.')
define_dry_run_flag('what would be made of what')
define_machine_flags()
flags.register_validator('max_shard_gb', lambda gb: 0 < gb < math.inf, 'must be above 0, finite')


def main() -> None:
    """Converts one checkpoint."""
    layers = FLAGS.keep_layers
    try:
        layers = None if layers is None else tuple(int(layer) for layer in layers)
    except ValueError:
        raise InputError(f'keep_layers={",".join(layers)}: write integers such as 0,2,4') from None
    mesh = start_machine()
    convert(
        Conversion(
            source=FLAGS.source,
            target=FLAGS.target,
            to=FLAGS.to,
            dtype=FLAGS.dtype,
            max_shard_bytes=int(FLAGS.max_shard_gb * 1e9),
            check=FLAGS.check,
            golden=FLAGS.golden,
            save_golden=FLAGS.save_golden,
            keep_layers=layers,
        ),
        mesh,
        announce=lambda line, facts: announce_measuring(f'convert: {line}', facts),
    )
    written = [FLAGS.target]
    if FLAGS.check or FLAGS.golden is not None or FLAGS.save_golden is not None:
        certificate = certificate_path(FLAGS.target)
        launch.say(describe_certificate(certificate))
        written.append(str(certificate))
    launch.say(f'everything is in {" and ".join(written)}')


if __name__ == '__main__':
    launch.run(main)
