"""Flags of the search for circuits."""

import dataclasses

from absl import flags

from cdjax.circuits.classifier import Encoding
from cdjax.errors import InputError
from cdjax.losses import CausalDiscoveryWeights, DiscoveryWeights
from cdjax.models.llama import REMAT_POLICIES
from cdjax.training.discovery import OBJECTIVES, DiscoveryConfig
from cdjax.training.optimizer import OptimizerConfig

FLAGS = flags.FLAGS


def define_discovery_flags() -> None:
    """Defines the search for circuits; see `discovery_from_flags`."""
    default = DiscoveryConfig()
    flags.DEFINE_integer('num_classes', default.num_classes, 'Latent classes, K.')
    flags.DEFINE_float('density', default.density, 'Neurons of a circuit, as a share of all.')
    flags.DEFINE_enum(
        'objective', default.objective, OBJECTIVES, 'Corrected or published objective.'
    )
    flags.DEFINE_bool(
        'cosine', default.cosine, 'Published objective: cosine similarity and overlap.'
    )
    flags.DEFINE_list(
        'loss_weights',
        [],
        'Weights that differ from the preset, as TERM=WEIGHT,...: faithfulness, completeness, '
        'usage, similarity, sparsity, density, overlap (causal); similarity, usage, sparsity, '
        'prior_kl, overlap (published; or just "authors").',
    )
    flags.DEFINE_bool('per_layer', default.per_layer, 'Ask for the density in each layer.')
    flags.DEFINE_float(
        'gumbel_temperature', default.temperature, 'Temperature of the Gumbel-softmax.'
    )
    flags.DEFINE_integer('mask_hidden', default.hidden, 'Width of the mask generator.')
    flags.DEFINE_integer(
        'encode_layer', default.encoding.layer, 'The classifier reads what enters this layer.'
    )
    flags.DEFINE_list(
        'encode_positions',
        list(default.encoding.positions or ()),
        'Positions that it reads; all if empty.',
    )
    flags.DEFINE_integer('discovery_steps', default.optimizer.steps, 'Steps of a discovery.')
    flags.DEFINE_integer(
        'discovery_batch_size', default.batch_size, 'Problems a step of a discovery.'
    )
    flags.DEFINE_integer(
        'discovery_microbatches',
        default.microbatches,
        'Parts of that batch, one after the other: less memory.',
    )
    flags.DEFINE_enum(
        'discovery_remat',
        default.remat,
        list(REMAT_POLICIES),
        'What its backward passes recompute.',
    )
    flags.DEFINE_float(
        'discovery_learning_rate',
        default.optimizer.learning_rate,
        'Peak learning rate of a discovery.',
    )
    flags.DEFINE_integer('discovery_seed', default.seed, 'Seed of a discovery.')


def discovery_from_flags() -> DiscoveryConfig:
    """Returns the discovery that the flags describe.

    Raises:
        InputError: a value out of range, or an unknown loss weight.
    """
    try:
        positions = tuple(int(p) for p in FLAGS.encode_positions) or None
    except ValueError:
        raise InputError(
            f'encode_positions={",".join(FLAGS.encode_positions)}: write integers such as 1,3,5'
        ) from None
    return DiscoveryConfig(
        optimizer=OptimizerConfig(FLAGS.discovery_steps, FLAGS.discovery_learning_rate),
        num_classes=FLAGS.num_classes,
        density=FLAGS.density,
        objective=FLAGS.objective,
        weights=_loss_weights(),
        cosine=FLAGS.cosine,
        per_layer=FLAGS.per_layer,
        temperature=FLAGS.gumbel_temperature,
        hidden=FLAGS.mask_hidden,
        encoding=Encoding(FLAGS.encode_layer, positions),
        batch_size=FLAGS.discovery_batch_size,
        microbatches=FLAGS.discovery_microbatches,
        remat=FLAGS.discovery_remat,
        seed=FLAGS.discovery_seed,
    )


def _loss_weights() -> CausalDiscoveryWeights | DiscoveryWeights:
    published = FLAGS.objective == 'published'
    if published and FLAGS.loss_weights == ['authors']:
        return DiscoveryWeights.authors()
    weights = DiscoveryWeights.unit() if published else CausalDiscoveryWeights()
    given = {}
    for part in FLAGS.loss_weights:
        name, _, value = part.partition('=')
        known = [field.name for field in dataclasses.fields(weights)]
        try:
            given[name] = float(value)
        except ValueError:
            raise InputError(f'loss_weights={part!r}: write TERM=NUMBER') from None
        if name not in known:
            raise InputError(
                f'loss_weights: {name!r} is no term of the {FLAGS.objective} objective; its terms '
                f'are {", ".join(known)}'
            )
    return dataclasses.replace(weights, **given)
