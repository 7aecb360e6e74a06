"""Flags of the search for circuits."""

import dataclasses
from typing import Any

from absl import flags

from cdjax.circuits.classifier import Encoding
from cdjax.errors import InputError, renamed
from cdjax.losses import DiscoveryWeights
from cdjax.models.llama import REMAT_POLICIES
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.objectives import OBJECTIVES, AnySize, FixedDensity, Objective, Published
from cdjax.training.objectives.any_size import LEARNED_PART
from cdjax.training.objectives.fixed_density import GATES
from cdjax.training.optimizer import OptimizerConfig
from experiments.flags.groups import group
from experiments.flags.weights import terms, weights_from_flag

FLAGS = flags.FLAGS

# Fields of objectives: flag → field. A flag that is not given leaves the objective its default.
OBJECTIVE_FLAGS = {
    'density': 'density',
    'smallest_size': 'smallest',
    'largest_size': 'largest',
    'sizes_per_step': 'sizes',
    'gate_temperature': 'temperature',
    'gate_noise': 'noise',
    'counterfactual_fills': 'counterfactual',
    'specific_part': 'specific',
    'gate': 'gate',
    'per_layer': 'per_layer',
    'mask_hidden': 'hidden',
    'sparsity_from': 'sparsity_from',
    'cosine': 'cosine',
}

# What messages call otherwise than the flags: field → flag.
OBJECTIVE_NAMES = {field: flag for flag, field in OBJECTIVE_FLAGS.items()}
_NAMES = OBJECTIVE_NAMES | {
    'temperature': 'gumbel_temperature',
    **{
        field: f'discovery_{field}'
        for field in ('steps', 'batch_size', 'microbatches', 'learning_rate', 'epsilon', 'seed')
    },
}


@group('Search for circuits')
def define_discovery_flags() -> None:
    """Defines the search for circuits; see `discovery_from_flags`."""
    default = DiscoveryConfig()
    flags.DEFINE_integer('num_classes', default.num_classes, 'Latent classes, K.')
    flags.DEFINE_enum(
        'objective',
        default.objective.key,
        list(OBJECTIVES),
        'What masks are trained for: any_size (exact masks of every size), causal (soft masks of '
        'one density), published (the terms of the text).',
    )
    _define_objective_flags()
    flags.DEFINE_list(
        'loss_weights',
        [],
        'Weights that differ from those of the objective, as TERM=WEIGHT,...: '
        + '; '.join(f'{", ".join(terms(o().weights))} ({key})' for key, o in OBJECTIVES.items())
        + '; or just "authors" (published).',
    )
    flags.DEFINE_float(
        'gumbel_temperature', default.temperature, 'Temperature of the Gumbel-softmax.'
    )
    flags.DEFINE_float(
        'classifier_learning_rate',
        default.classifier_learning_rate,
        'Peak learning rate of the classifier.',
    )
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
    flags.DEFINE_bool(
        'recompute_logits',
        default.recompute_logits,
        'Ask the whole model again at each step rather than store what it says of all problems; if '
        'not given, where that would take more than 4 GiB.',
    )
    flags.DEFINE_string(
        'first_ranking',
        default.first_ranking,
        'Method whose ranking of the neurons masks start from (any_size), one that trains nothing, '
        'such as atp; from small random scores if not given.',
    )
    flags.DEFINE_float(
        'discovery_learning_rate',
        None,
        'Peak learning rate of the masks; if not given, '
        + ', '.join(f'{o.learning_rate:g} ({key})' for key, o in OBJECTIVES.items())
        + '.',
    )
    flags.DEFINE_float(
        'discovery_epsilon', default.optimizer.epsilon, 'Epsilon of the optimizer of a discovery.'
    )
    define_least_accuracy_flag()
    flags.DEFINE_integer('discovery_seed', default.seed, 'Seed of a discovery.')


@group('Search for circuits')
def define_least_accuracy_flag() -> None:
    """Defines of how many problems a model has to be right; see `least_accuracy_from_flags`."""
    flags.DEFINE_float(
        'least_accuracy',
        DiscoveryConfig.least_accuracy,
        'A model that answers fewer of the problems is refused: it has no circuits for them '
        '(random weights are let pass).',
    )


@group('Options of one objective')
def _define_objective_flags() -> None:
    """Defines the flags of `OBJECTIVE_FLAGS`."""
    any_size, causal, published = AnySize(), FixedDensity(), Published()
    flags.DEFINE_float(
        'density',
        None,
        'Neurons of a circuit, as a share of all; if not given, '
        + ', '.join(f'{o().density:g} ({key})' for key, o in OBJECTIVES.items())
        + '. Circuits of any size can be cut from those of any_size.',
    )
    own = lambda what, default, key='any_size': f'{what} ({key}); {default} if not given.'
    flags.DEFINE_float(
        'smallest_size', None, own('Smallest size that is trained, a share', any_size.smallest)
    )
    flags.DEFINE_float('largest_size', None, own('Largest size that is trained', any_size.largest))
    flags.DEFINE_integer('sizes_per_step', None, own('Sizes of a step', any_size.sizes))
    flags.DEFINE_float(
        'gate_temperature', None, own('Temperature of the soft top-k', any_size.temperature)
    )
    flags.DEFINE_float(
        'gate_noise', None, own('Noise of the scores, in temperatures', any_size.noise)
    )
    flags.DEFINE_float(
        'counterfactual_fills',
        None,
        own(
            'Part of the problems whose ablated neurons become those of the counterfactual prompt',
            any_size.counterfactual,
        ),
    )
    flags.DEFINE_string(
        'specific_part',
        None,
        "Part of a circuit that is its class's own, the rest a core of all classes (any_size); "
        f'{LEARNED_PART}: a softmax of each neuron over none, shared and the classes decides; no '
        'core if not given.',
    )
    flags.DEFINE_enum('gate', None, GATES, own('Gate of a mask', causal.gate, 'causal'))
    flags.DEFINE_bool(
        'per_layer', None, own('Ask for the density in each layer', causal.per_layer, 'causal')
    )
    flags.DEFINE_integer(
        'mask_hidden',
        None,
        own('Width of the mask generator', causal.hidden, 'causal, published'),
    )
    flags.DEFINE_float(
        'sparsity_from',
        None,
        own('Part of the steps after which masks become binary', causal.sparsity_from, 'causal'),
    )
    flags.DEFINE_bool(
        'cosine', None, own('Cosine similarity and overlap', published.cosine, 'published')
    )


def discovery_from_flags() -> DiscoveryConfig:
    """Returns the discovery that the flags describe.

    Raises:
        InputError: a value out of range, an unknown loss weight, or a flag of another objective.
    """
    try:
        positions = tuple(int(p) for p in FLAGS.encode_positions) or None
    except ValueError:
        raise InputError(
            f'encode_positions={",".join(FLAGS.encode_positions)}: write integers such as 1,3,5'
        ) from None
    with renamed(OBJECTIVE_NAMES):
        objective = _objective()
    with renamed(_NAMES):
        return DiscoveryConfig(
            optimizer=OptimizerConfig(
                FLAGS.discovery_steps,
                FLAGS.discovery_learning_rate,
                epsilon=FLAGS.discovery_epsilon,
            ),
            num_classes=FLAGS.num_classes,
            objective=objective,
            classifier_learning_rate=FLAGS.classifier_learning_rate,
            temperature=FLAGS.gumbel_temperature,
            encoding=Encoding(FLAGS.encode_layer, positions),
            batch_size=FLAGS.discovery_batch_size,
            microbatches=FLAGS.discovery_microbatches,
            remat=FLAGS.discovery_remat,
            recompute_logits=FLAGS.recompute_logits,
            first_ranking=FLAGS.first_ranking,
            least_accuracy=least_accuracy_from_flags(),
            seed=FLAGS.discovery_seed,
        )


def least_accuracy_from_flags() -> float:
    """Returns the part of the problems that a model has to answer; none with random weights."""
    random = 'random_weights' in FLAGS and FLAGS.random_weights
    return 0.0 if random else FLAGS.least_accuracy


def _objective() -> Objective:
    """Returns the objective with the values of the flags that are given."""
    key = FLAGS.objective
    objective = OBJECTIVES[key]
    known = {field.name for field in dataclasses.fields(objective)}
    given: dict[str, Any] = {}
    for flag, field in OBJECTIVE_FLAGS.items():
        if FLAGS[flag].value is None:
            continue
        if field not in known:
            owners = [k for k, o in OBJECTIVES.items() if field in o.__dataclass_fields__]
            raise InputError(
                f'{flag}={FLAGS[flag].value} is no option of objective={key}: leave it out, or '
                f'choose objective={" or ".join(owners)}'
            )
        value = FLAGS[flag].value
        given[field] = _part(value) if flag == 'specific_part' else value
    return objective(**given, weights=_loss_weights(objective()))


def _part(text: str) -> float | str:
    if text == LEARNED_PART:
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f'specific_part={text}: write a number or {LEARNED_PART}') from None


def _loss_weights(objective: Objective) -> Any:
    """Returns the weights of an objective with those that the flag names."""
    weights = objective.weights
    if FLAGS.loss_weights == ['authors'] and isinstance(weights, DiscoveryWeights):
        return DiscoveryWeights.authors()
    of = f'the {objective.key} objective'
    return weights_from_flag('loss_weights', FLAGS.loss_weights, weights, of)
