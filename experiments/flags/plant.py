"""Flags of circuits that are planted in a teacher."""

from absl import flags

from cdjax.errors import InputError
from cdjax.planted.plan import PlanConfig
from cdjax.planted.training import PlantConfig
from experiments.flags.groups import group
from experiments.flags.weights import terms, weights_from_flag

FLAGS = flags.FLAGS

CIRCUITS, TOWERS, NOTHING = 'circuits', 'towers', 'nothing'


@group('Planted circuits')
def define_plant_flags() -> None:
    """Defines what is planted in a teacher; see `plant_from_flags`."""
    default = PlantConfig()
    flags.DEFINE_enum(
        'plant',
        None,
        [CIRCUITS, TOWERS, NOTHING],
        'Train a teacher whose circuits are known, and write them beside it as '
        'ground_truth.json: circuits with a shared part and decoys, towers that have nothing in '
        'common, or nothing, for a negative control. A training like any other if not given.',
    )
    flags.DEFINE_string(
        'plant_classes', default.label, 'Label of the problems whose values are the classes.'
    )
    flags.DEFINE_integer(
        'plant_shared', default.plan.shared, 'Neurons a layer that serve all classes.'
    )
    flags.DEFINE_integer(
        'plant_specific', default.plan.specific, 'Neurons a layer that serve one class, of each.'
    )
    flags.DEFINE_integer('plant_seed', default.plan.seed, 'Seed of the choice of neurons.')
    flags.DEFINE_float(
        'plant_floor', default.floor, 'Deviation of activations at which a neuron is kept alive.'
    )
    flags.DEFINE_float(
        'plant_spread',
        default.spread,
        'Least deviation of a neuron as a part of the largest of its layer; 0 asks nothing.',
    )
    flags.DEFINE_list(
        'plant_weights',
        [],
        f'Weights of terms, as TERM=WEIGHT,... of {", ".join(terms(default.weights))}; 1 of those '
        'that are not given, and 0 of nuisance, which gives decoys a label of their own to tell.',
    )
    flags.DEFINE_float(
        'plant_together',
        default.together,
        'Share of the problems for which neurons are taken out of all layers alike.',
    )


def plant_from_flags() -> PlantConfig | None:
    """Returns what the flags plant, None for a training like any other.

    Raises:
        InputError: a value out of range, or one that plants nothing.
    """
    numbers = ['plant_shared', 'plant_specific']
    if FLAGS.plant in (None, NOTHING):
        numbers += ['plant_floor', 'plant_spread', 'plant_weights', 'plant_together']
    if FLAGS.plant is None:
        numbers += ['plant_classes', 'plant_seed']
    given = [name for name in numbers if FLAGS[name].present]
    if FLAGS.plant != CIRCUITS and given:
        raise InputError(
            f'{given[0]}={FLAGS[given[0]].value} is of --plant={CIRCUITS}, and plant is '
            f'{FLAGS.plant}: leave one of them out'
        )
    plan = {
        None: None,
        CIRCUITS: PlanConfig(FLAGS.plant_shared, FLAGS.plant_specific, FLAGS.plant_seed),
        TOWERS: PlanConfig(0, None, FLAGS.plant_seed),
        NOTHING: PlanConfig(0, 0, FLAGS.plant_seed),
    }[FLAGS.plant]
    if plan is None:
        return None
    default = PlantConfig().weights
    weights = weights_from_flag('plant_weights', FLAGS.plant_weights, default, 'what is planted by')
    return PlantConfig(
        FLAGS.plant_classes,
        plan,
        weights,
        floor=FLAGS.plant_floor,
        spread=FLAGS.plant_spread,
        together=FLAGS.plant_together,
    )
