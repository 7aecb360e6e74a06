"""Groups of flags that several launchers share, and what they turn into."""

import dataclasses
from typing import Any

import jax
from absl import flags, logging
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.classifier import Encoding
from cdjax.data import ArithmeticTask
from cdjax.errors import InputError
from cdjax.losses import CausalDiscoveryWeights, DiscoveryWeights
from cdjax.models import Llama
from cdjax.models.config import PRESETS
from cdjax.models.llama import REMAT_POLICIES
from cdjax.parallel import multihost
from cdjax.parallel.mesh import make_mesh
from cdjax.run.compilation import enable_compilation_cache
from cdjax.run.options import RunOptions
from cdjax.studies.arms import ARMS, STARTS, ArmsConfig
from cdjax.studies.inputs import TEACHER_DTYPES, InputsConfig
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.loop import best_parameters
from cdjax.training.optimizer import OptimizerConfig

FLAGS = flags.FLAGS

# The evaluation by which the best checkpoint is kept.
BEST = ('accuracy', 'max')


def define_task_flags() -> None:
    """Defines which problems are meant; see `task_from_flags`."""
    task = ArithmeticTask()
    flags.DEFINE_list('operators', list(task.operators), 'Operators of the problems: + - * /.')
    flags.DEFINE_integer('operands', task.operands, 'Operands of a problem, 2 or 3.')
    flags.DEFINE_integer('low', task.low, 'Smallest operand.')
    flags.DEFINE_integer('high', task.high, 'Largest operand.')
    flags.DEFINE_integer('answer_low', task.answer_low, 'Smallest answer.')
    flags.DEFINE_integer('answer_high', task.answer_high, 'Largest answer; any if not given.')
    flags.DEFINE_integer(
        'num_problems', None, 'Problems drawn from the range (seeded); all if not given.'
    )
    flags.DEFINE_string('prompt_prefix', '', 'Text before each prompt, such as solved examples.')
    flags.DEFINE_string(
        'task_file', None, 'Your own problems instead: jsonl with prompt, answer[, counterfactual].'
    )
    flags.DEFINE_float('share', 0.25, 'Part of the training forms that distillation may use.')
    flags.DEFINE_float('test', 0.2, 'Part of all canonical forms that is held out.')
    flags.DEFINE_integer('split_seed', 0, 'Seed of the split by canonical form.')


def task_from_flags() -> ArithmeticTask | None:
    """Returns the arithmetic task, checked, or None where a task file is given."""
    if FLAGS.task_file is not None:
        return None
    return ArithmeticTask(
        operators=tuple(FLAGS.operators),
        operands=FLAGS.operands,
        low=FLAGS.low,
        high=FLAGS.high,
        answer_low=FLAGS.answer_low,
        answer_high=FLAGS.answer_high,
        prompt_prefix=FLAGS.prompt_prefix,
        num_problems=FLAGS.num_problems,
    )


def define_checkpoint_flags() -> None:
    """Defines which models are meant; see `inputs_from_flags`."""
    flags.DEFINE_string(
        'teacher', None, 'Checkpoint folder or hub id; the embedded teacher if none.'
    )
    flags.DEFINE_string(
        'student', None, 'Checkpoint to start from, or a preset; half the teacher if none.'
    )
    flags.DEFINE_enum(
        'teacher_dtype',
        'stored',
        list(TEACHER_DTYPES),
        "Dtype of the teacher's weights and computation; stored: as the checkpoint has it, and "
        'bfloat16 for a preset.',
    )
    flags.DEFINE_bool(
        'random_weights',
        False,
        'Draw all weights at random, to try speed and memory at full shapes without a checkpoint; '
        f'--teacher may then be a preset ({", ".join(PRESETS)}) or a folder with a config.json.',
    )


def inputs_from_flags() -> InputsConfig:
    """Returns the inputs of a study."""
    task = task_from_flags()
    if FLAGS.random_weights:
        logging.warning('random weights: speed and memory are real, what the models say is not')
    return InputsConfig(
        task=FLAGS.task_file if task is None else task,
        share=FLAGS.share,
        test=FLAGS.test,
        split_seed=FLAGS.split_seed,
        prompt_prefix=FLAGS.prompt_prefix,
        teacher=FLAGS.teacher,
        student=FLAGS.student,
        teacher_dtype=FLAGS.teacher_dtype,
        random_weights=FLAGS.random_weights,
    )


def define_discovery_flags() -> None:
    """Defines the search for circuits; see `discovery_from_flags`."""
    flags.DEFINE_integer('num_classes', 4, 'Latent classes, K.')
    flags.DEFINE_float('density', 0.2, 'Neurons of a circuit, as a share of all.')
    flags.DEFINE_enum(
        'objective', 'causal', ['causal', 'published'], 'Corrected or published objective.'
    )
    flags.DEFINE_bool('cosine', False, 'Published objective: cosine similarity and overlap.')
    flags.DEFINE_list(
        'loss_weights',
        [],
        'Weights that differ from the preset, as TERM=WEIGHT,...: faithfulness, completeness, '
        'usage, similarity, sparsity, density, overlap (causal); similarity, usage, sparsity, '
        'prior_kl, overlap (published; or just "authors").',
    )
    flags.DEFINE_bool('per_layer', False, 'Ask for the density in each layer.')
    flags.DEFINE_float('gumbel_temperature', 1.0, 'Temperature of the Gumbel-softmax.')
    flags.DEFINE_integer('mask_hidden', 64, 'Width of the mask generator.')
    flags.DEFINE_integer('encode_layer', 0, 'The classifier reads what enters this layer.')
    flags.DEFINE_list('encode_positions', [], 'Positions that it reads; all if empty.')
    flags.DEFINE_integer('discovery_steps', 500, 'Steps of a discovery.')
    flags.DEFINE_integer('discovery_batch_size', 128, 'Problems a step of a discovery.')
    flags.DEFINE_integer(
        'discovery_microbatches', 1, 'Parts of that batch, one after the other: less memory.'
    )
    flags.DEFINE_enum(
        'discovery_remat', 'none', list(REMAT_POLICIES), 'What its backward passes recompute.'
    )
    flags.DEFINE_float('discovery_learning_rate', 2e-2, 'Peak learning rate of a discovery.')
    flags.DEFINE_integer('discovery_seed', 0, 'Seed of a discovery.')


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
        optimizer=OptimizerConfig(
            FLAGS.discovery_steps, FLAGS.discovery_learning_rate, warmup_steps=20
        ),
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


def define_distillation_flags() -> None:
    """Defines one distillation; see `distillation_from_flags`."""
    flags.DEFINE_string(
        'layer_pairs', 'last', 'Layers aligned: last, depth, or STUDENT:TEACHER,...'
    )
    flags.DEFINE_float('weight', 1.0, 'Weight of the alignment.')
    flags.DEFINE_float('temperature', 2.0, 'Temperature of the KD.')
    flags.DEFINE_integer(
        'top_k',
        None,
        "Tokens of the teacher's answer that are stored for each problem, the rest as one; all if "
        'not given (0.5 MB a problem at 128,256 tokens).',
    )
    flags.DEFINE_float('init_std', 0.02, "Deviation of a new student's first matrices.")
    flags.DEFINE_integer('steps', 1000, 'Steps of a distillation.')
    flags.DEFINE_integer('batch_size', 128, 'Problems a step of a distillation.')
    define_memory_flags()
    flags.DEFINE_float('learning_rate', 2e-3, 'Peak learning rate of a distillation.')
    flags.DEFINE_float('weight_decay', 1.0, 'Weight decay of a distillation.')
    flags.DEFINE_integer('evaluate_every', 250, 'Steps between evaluations on unseen forms.')


def define_memory_flags() -> None:
    """Defines what a training of a model trades memory for; see `memory_options`."""
    flags.DEFINE_integer(
        'microbatches', 1, 'Parts of a batch, computed one after the other: less memory.'
    )
    flags.DEFINE_enum(
        'compute_dtype',
        'float32',
        ['float32', 'bfloat16'],
        'Dtype of the computation; trained weights stay float32.',
    )
    flags.DEFINE_enum(
        'remat', 'none', list(REMAT_POLICIES), 'What backward passes recompute: less memory.'
    )


def memory_options() -> dict[str, Any]:
    """Returns the fields of a training's configuration that `define_memory_flags` defines."""
    return {name: FLAGS[name].value for name in ('microbatches', 'compute_dtype', 'remat')}


def distillation_from_flags() -> DistillationConfig:
    """Returns the distillation that the flags describe.

    Raises:
        InputError: a value out of range.
    """
    return DistillationConfig(
        OptimizerConfig(FLAGS.steps, FLAGS.learning_rate, weight_decay=FLAGS.weight_decay),
        weight=FLAGS.weight,
        temperature=FLAGS.temperature,
        top_k=FLAGS.top_k,
        batch_size=FLAGS.batch_size,
        init_std=FLAGS.init_std,
        **memory_options(),
    )


def define_arms_flags() -> None:
    """Defines which distillations are compared; see `arms_from_flags`."""
    flags.DEFINE_list('arms', list(ARMS), f'Arms: {", ".join(ARMS)}.')
    flags.DEFINE_list('starts', ['nothing'], f'Where students start: {", ".join(STARTS)}.')
    flags.DEFINE_list('seeds', ['0'], 'Seeds; each gives all arms the same start and batches.')
    flags.DEFINE_integer('head_start_steps', 300, "Steps of the partial student's head start.")


def arms_from_flags() -> ArmsConfig:
    """Returns the arms that the flags describe.

    Raises:
        InputError: a value out of range, or an unknown arm or start.
    """
    try:
        seeds = tuple(int(seed) for seed in FLAGS.seeds)
    except ValueError:
        raise InputError(f'seeds={",".join(FLAGS.seeds)}: write integers such as 0,1,2') from None
    distillation = distillation_from_flags()
    optimizer = dataclasses.replace(distillation.optimizer, steps=FLAGS.head_start_steps)
    return ArmsConfig(
        distillation=distillation,
        arms=tuple(FLAGS.arms),
        starts=tuple(FLAGS.starts),
        seeds=seeds,
        head_start=LanguageModelConfig(optimizer, batch_size=FLAGS.batch_size, **memory_options()),
        evaluate_every=FLAGS.evaluate_every,
    )


def define_run_flags(workdir: str) -> None:
    """Defines where a run is kept and what its trainings write; see `run_options`.

    A run of several trainings keeps each in a folder of its own, below WORKDIR/stages.
    """
    default = RunOptions()
    flags.DEFINE_string('workdir', workdir, 'Folder of the run.')
    flags.DEFINE_integer('checkpoint_every', default.checkpoint_every, 'Steps between checkpoints.')
    flags.DEFINE_string(
        'profile_steps',
        None,
        "FIRST:END, steps of which profile/ in each training's folder gets a profiler trace.",
    )
    flags.DEFINE_integer(
        'diagnose_every',
        default.diagnose_every,
        'Steps between reports on the gradient of each term, in metrics.jsonl and gradients/.',
    )
    flags.DEFINE_bool(
        'check_gradients',
        default.check_gradients,
        'Begin with a report on the gradient of each term, and stop if a term trains nothing; it '
        'takes the memory of one more gradient.',
    )


def define_export_flag() -> None:
    """Defines which parameters of a training with evaluations are exported; see `exported`."""
    flags.DEFINE_enum(
        'export',
        'last',
        ['last', 'best'],
        'Which step is exported: the last, or the best by accuracy on the evaluated problems '
        '(which is then optimistic). Both are kept in WORKDIR/checkpoints.',
    )


def exported(model: Llama, workdir: epath.Path) -> Llama:
    """Returns the model of the step that --export asks for, given that of the last one."""
    if FLAGS.export == 'last':
        return model
    model, step = best_parameters(workdir, model, BEST)
    logging.warning('exporting step %d, chosen by the very problems it is evaluated on', step)
    return model


def run_options() -> RunOptions:
    """Returns what `define_run_flags` defines.

    Raises:
        InputError: a value out of range.
    """
    if 'evaluate_every' in FLAGS and FLAGS.evaluate_every < 1:
        raise InputError(f'evaluate_every={FLAGS.evaluate_every} must be at least 1')
    return RunOptions(
        checkpoint_every=FLAGS.checkpoint_every,
        profile_steps=_profile_steps(),
        check_gradients=FLAGS.check_gradients,
        diagnose_every=FLAGS.diagnose_every,
    )


def _profile_steps() -> tuple[int, int] | None:
    if FLAGS.profile_steps is None:
        return None
    try:
        first, end = map(int, FLAGS.profile_steps.split(':'))
    except ValueError:
        raise InputError(
            f'profile_steps={FLAGS.profile_steps}: write FIRST:END, such as 10:15'
        ) from None
    return first, end


def define_mesh_flags() -> None:
    """Defines the two axes of the mesh."""
    flags.DEFINE_integer('fsdp', -1, 'Devices over which batches are split; -1: all that is left.')
    flags.DEFINE_integer('tensor', 1, 'Devices over which neurons and heads are split.')


def define_machine_flags() -> None:
    """Defines the mesh and, on several hosts, how the processes find each other."""
    define_mesh_flags()
    flags.DEFINE_string('coordinator', None, 'host:port of process 0, where nothing tells it.')
    flags.DEFINE_integer('num_processes', None, 'Processes of this run, with --coordinator.')
    flags.DEFINE_integer('process_id', None, 'Number of this process, with --coordinator.')
    flags.DEFINE_string(
        'compilation_cache', '~/.cache/cdjax', 'Folder of compiled programs; none if empty.'
    )


def start_machine() -> Mesh:
    """Joins the processes of the run and returns the mesh; before any array is made."""
    if FLAGS.compilation_cache:
        enable_compilation_cache(FLAGS.compilation_cache)
    multihost.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if jax.process_index() > 0:  # what one process warns of, all would
        logging.set_verbosity(logging.ERROR)
    return make_mesh(FLAGS.fsdp, FLAGS.tensor)
