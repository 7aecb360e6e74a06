"""Flags of distillations, of the arms that are compared, and of what trains a model."""

from typing import Any

from absl import flags

from cdjax.distillation.alignment import NAMED_POSITIONS, Alignment
from cdjax.distillation.arms import ARMS
from cdjax.distillation.components import TRAINED
from cdjax.distillation.pairings import PAIRINGS
from cdjax.distillation.readings import READINGS
from cdjax.distillation.similarities import SIMILARITIES
from cdjax.errors import InputError
from cdjax.models import SITES
from cdjax.models.llama import REMAT_POLICIES
from cdjax.studies.arms import CIRCUITS_OF, STARTS, ArmsConfig
from cdjax.studies.pipeline import PipelineConfig
from cdjax.studies.weight_grid import SEEDS, WeightGrid
from cdjax.training.distillation_config import FROM_NOTHING, DistillationConfig
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.optimizer import FINE_TUNING, OptimizerConfig, Suited
from cdjax.training.schedules import WEIGHT_SCHEDULES
from experiments.flags.given import on_command_line, refuse_given
from experiments.flags.groups import GROUPS, group

FLAGS = flags.FLAGS

COMPUTE_DTYPES = ('float32', 'bfloat16')


@group('Distillation')
def define_distillation_flags() -> None:
    """Defines one distillation; see `distillation_from_flags`."""
    default = DistillationConfig()
    flags.DEFINE_string(
        'layer_pairs',
        PipelineConfig().layer_pairs,
        f'Layers aligned: {", ".join(PAIRINGS)}, or STUDENT:TEACHER,... such as 3:7 (of heads '
        '3.0:7.2).',
    )
    flags.DEFINE_float('weight', default.weight, 'Weight of the alignment.')
    flags.DEFINE_enum(
        'weight_schedule',
        default.weight_schedule,
        list(WEIGHT_SCHEDULES),
        'How that weight changes over the steps.',
    )
    flags.DEFINE_enum(
        'trained',
        default.trained,
        TRAINED,
        'What of the student is trained: all of it, or the paired components alone.',
    )
    flags.DEFINE_string(
        'teacher_store',
        default.teacher_store,
        'Where what the teacher says is kept: memory; a folder on a disk; or online, nowhere.',
    )
    flags.DEFINE_float('temperature', default.temperature, 'Temperature of the KD.')
    flags.DEFINE_integer(
        'top_k',
        default.top_k,
        "Tokens of the teacher's answer that are stored for each problem, the rest as one; all if "
        'not given (0.5 MB a problem at 128,256 tokens).',
    )
    flags.DEFINE_float('init_std', default.init_std, "Deviation of a new student's first matrices.")
    define_alignment_flags()
    define_training_flags(default, FROM_NOTHING)
    flags.DEFINE_integer(
        'evaluate_every', ArmsConfig().evaluate_every, 'Steps between evaluations on unseen forms.'
    )


@group('Distillation')
def define_pairs_flag() -> None:
    """Defines how many layers are paired, of pairings that look at what layers do."""
    flags.DEFINE_integer(
        'most_pairs',
        PipelineConfig().most_pairs,
        'Pairs at most, of a pairing that weighs layers or heads; all if not given.',
    )


@group('What is aligned')
def define_alignment_flags() -> None:
    """Defines how representations are compared; see `alignment_from_flags`."""
    default = Alignment()
    flags.DEFINE_string(
        'align_site', default.site, f'Whose activations are aligned: {", ".join(SITES)}.'
    )
    flags.DEFINE_list(
        'align_positions',
        default.positions,
        f'Positions of the prompt that are aligned: {", ".join(NAMED_POSITIONS)}, or numbers such '
        'as 1,3; that of the answer if not given.',
    )
    flags.DEFINE_string(
        'align_reading',
        default.reading,
        f'What of its units is compared: {", ".join(READINGS)}.',
    )
    flags.DEFINE_string(
        'similarity',
        default.similarity,
        f'What the alignment maximises: {", ".join(SIMILARITIES)}.',
    )
    flags.DEFINE_integer(
        'min_count', default.min_count, 'Problems of a class in a batch, or it is left out.'
    )
    flags.DEFINE_integer(
        'row_memory',
        default.memory,
        'Past problems of each class that are compared with those of the batch.',
    )


def alignment_from_flags() -> Alignment:
    """Returns how representations are compared, as the flags describe it.

    Raises:
        InputError: a value out of range.
    """
    positions = FLAGS.align_positions
    if positions is not None:
        try:
            positions = tuple(int(n) for n in positions)
        except ValueError:
            positions = ','.join(positions)  # a name, or it is refused
    return Alignment(
        site=FLAGS.align_site,
        positions=positions,
        similarity=FLAGS.similarity,
        reading=FLAGS.align_reading,
        min_count=FLAGS.min_count,
        memory=FLAGS.row_memory,
    )


@group('Training of a model')
def define_training_flags(
    default: DistillationConfig | LanguageModelConfig, from_nothing: Suited
) -> None:
    """Defines the training of a model; see `training_from_flags`.

    Args:
        default: the training whose fields the flags stand for.
        from_nothing: what suits a model from nothing in it.
    """
    flags.DEFINE_integer('steps', default.optimizer.steps, 'Training steps.')
    flags.DEFINE_integer('batch_size', default.batch_size, 'Problems a step.')

    def suited(field):
        new, trained = getattr(from_nothing, field), getattr(FINE_TUNING, field)
        if new == trained:
            return f'; {new:g} if not given.'
        return (
            f'; if not given, {new:g} for a model from nothing and {trained:g} for one from a '
            'checkpoint.'
        )

    flags.DEFINE_float(
        'learning_rate',
        default.optimizer.learning_rate,
        'Peak learning rate' + suited('learning_rate'),
    )
    flags.DEFINE_float(
        'weight_decay',
        default.optimizer.weight_decay,
        'Weight decay of matrices' + suited('weight_decay'),
    )
    flags.DEFINE_integer(
        'warmup_steps',
        default.optimizer.warmup_steps,
        'Steps of linear warm-up, of which at most a tenth of all is used' + suited('warmup_steps'),
    )
    flags.DEFINE_integer(
        'microbatches',
        default.microbatches,
        'Parts of a batch, computed one after the other: less memory.',
    )
    flags.DEFINE_enum(
        'compute_dtype',
        default.compute_dtype,
        COMPUTE_DTYPES,
        'Dtype of the computation; trained weights stay float32.',
    )
    flags.DEFINE_enum(
        'remat',
        default.remat,
        list(REMAT_POLICIES),
        'What backward passes recompute: less memory.',
    )


def training_from_flags() -> dict[str, Any]:
    """Returns the fields of a training's configuration that `define_training_flags` defines.

    Raises:
        InputError: a value out of range.
    """
    # That of a recipe may be, where a few steps of it are tried.
    if on_command_line('warmup_steps') and FLAGS.warmup_steps >= FLAGS.steps:
        raise InputError(
            f'warmup_steps={FLAGS.warmup_steps} is not below steps={FLAGS.steps}: choose at most a '
            f'tenth of the steps, {FLAGS.steps // 10}, for more are not used'
        )
    return {
        'optimizer': OptimizerConfig(
            FLAGS.steps, FLAGS.learning_rate, FLAGS.warmup_steps, FLAGS.weight_decay
        ),
        'batch_size': FLAGS.batch_size,
        'microbatches': FLAGS.microbatches,
        'compute_dtype': FLAGS.compute_dtype,
        'remat': FLAGS.remat,
    }


def distillation_from_flags() -> DistillationConfig:
    """Returns the distillation that the flags describe.

    Raises:
        InputError: a value out of range.
    """
    return DistillationConfig(
        weight=FLAGS.weight,
        weight_schedule=FLAGS.weight_schedule,
        trained=FLAGS.trained,
        teacher_store=FLAGS.teacher_store,
        temperature=FLAGS.temperature,
        top_k=FLAGS.top_k,
        init_std=FLAGS.init_std,
        **training_from_flags(),
    )


@group('Arms that are compared')
def define_arms_flags() -> None:
    """Defines which distillations are compared; see `arms_from_flags`."""
    default = ArmsConfig()
    define_pairs_flag()
    flags.DEFINE_list('arms', list(default.arms), f'Arms: {", ".join(ARMS)}; no students if empty.')
    flags.DEFINE_list(
        'starts',
        default.starts,
        f'Where students start: {", ".join(STARTS)}; the checkpoint of --student if not given, '
        'and nothing without one.',
    )
    flags.DEFINE_list(
        'seeds',
        [str(seed) for seed in default.seeds],
        'Seeds; each gives all arms the same start and batches.',
    )
    flags.DEFINE_list(
        'primary',
        default.primary,
        'Two of the arms: the comparison that is decided on before the table is made, if any.',
    )
    flags.DEFINE_string(
        'mechanism',
        default.mechanism,
        "Method that finds circuits in every student, to see whether the teacher's mechanism moved "
        '(learned: searches again, which takes long); not looked at if not given.',
    )
    flags.DEFINE_enum(
        'arm_circuits',
        default.circuits,
        list(CIRCUITS_OF),
        'Circuits that arms are made of: those that a search finds, or those that were planted in '
        'the teacher.',
    )
    flags.DEFINE_list(
        'training_problems',
        list(default.training_problems),
        'Smaller shares, in problems, with which all students are distilled as well: accuracy '
        'against the number of training problems.',
    )
    flags.DEFINE_list(
        'weight_grid',
        [],
        'Weights of which each arm has the one that suits it, chosen on training forms outside the '
        'share; --weight, one of them, stays where none is better; all have --weight if empty.',
    )
    flags.DEFINE_list(
        'weight_seeds',
        list(map(str, SEEDS)),
        'Seeds of the students by which those weights are chosen, none of --seeds.',
    )
    flags.DEFINE_integer(
        'arm_problems', default.max_problems, 'Problems that students are asked, at most.'
    )
    flags.DEFINE_integer(
        'head_start_steps',
        default.head_start_steps,
        "Steps of the partial student's head start.",
    )


def arms_from_flags() -> ArmsConfig:
    """Returns the arms that the flags describe.

    Raises:
        InputError: a value out of range, or an unknown arm or start.
    """
    seeds, problems = integers('seeds', '0,1,2'), integers('training_problems', '40,80')
    return ArmsConfig(
        distillation=distillation_from_flags(),
        alignment=alignment_from_flags(),
        arms=tuple(FLAGS.arms),
        starts=None if FLAGS.starts is None else tuple(FLAGS.starts),
        seeds=seeds,
        head_start_steps=FLAGS.head_start_steps,
        evaluate_every=FLAGS.evaluate_every,
        max_problems=FLAGS.arm_problems,
        mechanism=FLAGS.mechanism,
        primary=None if FLAGS.primary is None else tuple(FLAGS.primary),
        circuits=FLAGS.arm_circuits,
        training_problems=problems,
        weight_grid=_weight_grid_from_flags(),
    )


def _weight_grid_from_flags() -> WeightGrid | None:
    if not FLAGS.weight_grid:
        none = 'chooses from weight_grid, which is empty: name weights there, or leave it out'
        refuse_given(['weight_seeds'], none)
        return None
    try:
        weights = tuple(map(float, FLAGS.weight_grid))
    except ValueError:
        listed = ','.join(FLAGS.weight_grid)
        raise InputError(f'weight_grid={listed}: write numbers such as .3,1,3') from None
    return WeightGrid(weights, integers('weight_seeds', '1000,1001'))


def flags_of_students() -> list[str]:
    """Returns the flags of what only students read, but for --arms itself."""
    titles = ('Distillation', 'What is aligned', 'Training of a model', 'Arms that are compared')
    return [name for title in titles for name in GROUPS[title] if name != 'arms']


def integers(name: str, example: str) -> tuple[int, ...]:
    """Returns the numbers of a flag that lists some."""
    try:
        return tuple(int(number) for number in FLAGS[name].value)
    except ValueError:
        listed = ','.join(FLAGS[name].value)
        raise InputError(f'{name}={listed}: write integers such as {example}') from None
