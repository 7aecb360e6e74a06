"""Flags of the problems and of the models."""

import dataclasses

from absl import flags, logging

from cdjax.data import TASKS, ArithmeticTask
from cdjax.data.limits import Limits
from cdjax.errors import InputError
from cdjax.models.config import PRESETS
from cdjax.studies.inputs_config import TEACHER_DTYPES, InputsConfig
from experiments.flags.groups import group

FLAGS = flags.FLAGS
# What describes arithmetic; problems that are given are as they are.
_ARITHMETIC = ('operators', 'operands', 'low', 'high', 'answer_low', 'answer_high', 'num_problems')


@group('Problems and their split')
def define_task_flags() -> None:
    """Defines which problems are meant; see `problems_from_flags`."""
    task, inputs = ArithmeticTask(), InputsConfig()
    flags.DEFINE_list('operators', list(task.operators), 'Operators of the problems: + - * /.')
    flags.DEFINE_integer('operands', task.operands, 'Operands of a problem, 2 or 3.')
    flags.DEFINE_integer('low', task.low, 'Smallest operand.')
    flags.DEFINE_integer('high', task.high, 'Largest operand.')
    flags.DEFINE_integer('answer_low', task.answer_low, 'Smallest answer.')
    flags.DEFINE_integer('answer_high', task.answer_high, 'Largest answer; any if not given.')
    flags.DEFINE_integer(
        'num_problems',
        task.num_problems,
        'Problems drawn from the range (seeded); all if not given.',
    )
    flags.DEFINE_string(
        'prompt_prefix',
        task.prompt_prefix,
        r'Text before each prompt, such as solved examples; \n is a line break.',
    )
    flags.DEFINE_integer(
        'shots', task.shots, 'Solved examples behind that text, drawn from the problems (seeded).'
    )
    flags.DEFINE_bool(
        'several_lengths',
        task.several_lengths,
        'Keep prompts of every length, and operands of several tokens; else those of the commonest '
        'length. Task files have prompts of any length.',
    )
    flags.DEFINE_integer('answer_tokens', task.answer_tokens, 'Tokens of an answer at most.')
    flags.DEFINE_string(
        'answer_end',
        task.answer_end,
        r'Text that ends each answer, and has to be predicted too; \n is a line break.',
    )
    flags.DEFINE_string(
        'task',
        None,
        f'A generated task instead of the arithmetic that the flags describe: {", ".join(TASKS)}, '
        'or one that --plugins adds.',
    )
    flags.DEFINE_string(
        'task_file', None, 'Your own problems instead: jsonl with prompt, answer[, counterfactual].'
    )
    flags.DEFINE_float(
        'share', inputs.share, 'Part of the training forms that distillation may use.'
    )
    flags.DEFINE_float('test', inputs.test, 'Part of all canonical forms that is held out.')
    flags.DEFINE_integer('split_seed', inputs.split_seed, 'Seed of the split by canonical form.')


@group('What students are asked beside their problems')
def define_reach_flags() -> None:
    """Defines how far students are followed: beyond the share, and into what they know else.

    See `reaching`.
    """
    flags.DEFINE_list(
        'share_high',
        [],
        'Largest operand that distillation may use: one number for all operands, or one for each '
        'in its place. Students are measured on unseen problems beyond it too.',
    )
    flags.DEFINE_string(
        'share_where',
        Limits().label,
        'Label of the problems that distillation may use, LABEL=VALUE; any if not given.',
    )
    flags.DEFINE_string(
        'rival',
        InputsConfig().rival,
        'Task of the same prompts whose answers go by another rule: how often students give them '
        'beyond the share.',
    )
    flags.DEFINE_string(
        'text',
        InputsConfig().text,
        'Text file whose perplexity is measured before and after: what students forget.',
    )
    flags.DEFINE_list(
        'other_tasks',
        list(InputsConfig().other_tasks),
        'Tasks on which students are measured before and after: generated ones, or paths of jsonl.',
    )


def reaching(inputs: InputsConfig) -> InputsConfig:
    """Returns inputs whose students are followed as far as the flags say.

    Raises:
        InputError: a limit that is no number, or an unknown task.
    """
    try:
        high = tuple(int(number) for number in FLAGS.share_high)
    except ValueError:
        raise InputError(
            f'share_high={",".join(FLAGS.share_high)}: write integers such as 14 or 14,19,19'
        ) from None
    limits = Limits(high, FLAGS.share_where)
    return dataclasses.replace(
        inputs,
        limits=limits,
        rival=FLAGS.rival,
        text=FLAGS.text,
        other_tasks=tuple(FLAGS.other_tasks),
    )


def problems_from_flags() -> InputsConfig:
    """Returns the inputs of a study that names no model: its problems and their split.

    Raises:
        InputError: a value out of range.
    """
    if FLAGS.task is not None and FLAGS.task_file is not None:
        raise InputError(f'task={FLAGS.task} and task_file={FLAGS.task_file}: give one of them')
    if FLAGS.task is not None or FLAGS.task_file is not None:
        _refuse_arithmetic()
    encoding = {
        'prompt_prefix': FLAGS.prompt_prefix.replace(r'\n', '\n'),
        'answer_tokens': FLAGS.answer_tokens,
        'answer_end': FLAGS.answer_end.replace(r'\n', '\n'),
    }
    task = FLAGS.task_file
    if FLAGS.shots and (FLAGS.task or FLAGS.task_file):
        raise InputError(
            f'shots={FLAGS.shots}: examples are drawn of arithmetic alone; write them into '
            'prompt_prefix'
        )
    if FLAGS.task is not None:
        task = TASKS[FLAGS.task].key
    elif task is None:
        task = ArithmeticTask(
            operators=tuple(FLAGS.operators),
            operands=FLAGS.operands,
            low=FLAGS.low,
            high=FLAGS.high,
            answer_low=FLAGS.answer_low,
            answer_high=FLAGS.answer_high,
            shots=FLAGS.shots,
            several_lengths=FLAGS.several_lengths,
            **encoding,
            num_problems=FLAGS.num_problems,
        )
    return InputsConfig(
        task=task,
        share=FLAGS.share,
        test=FLAGS.test,
        split_seed=FLAGS.split_seed,
        **encoding,
    )


def _refuse_arithmetic() -> None:
    """Raises InputError for flags that describe arithmetic, beside problems that are given."""
    for name in _ARITHMETIC:
        if FLAGS[name].present:
            where = 'task_file' if FLAGS.task is None else 'task'
            raise InputError(
                f'{name}={FLAGS[name].value} is of arithmetic, and the problems are those of '
                f'{where}={FLAGS[where].value}: leave one of them out'
            )


@group('Models')
def define_checkpoint_flags() -> None:
    """Defines which models are meant; see `inputs_from_flags`."""
    default = InputsConfig()
    flags.DEFINE_string(
        'teacher',
        default.teacher,
        'Checkpoint folder or hub id; the embedded teacher if not given.',
    )
    flags.DEFINE_string(
        'student',
        default.student,
        'Checkpoint to start from, or a preset or a config.json for a student from nothing of that '
        'shape; one from nothing of half the teacher if not given.',
    )
    flags.DEFINE_enum(
        'teacher_dtype',
        default.teacher_dtype,
        list(TEACHER_DTYPES),
        "Dtype of the teacher's weights and computation; stored: as the checkpoint has it, and "
        'bfloat16 for a preset.',
    )
    flags.DEFINE_bool(
        'random_weights',
        default.random_weights,
        'Draw all weights at random, to try speed and memory at full shapes without a checkpoint; '
        f'--teacher may then be a preset ({", ".join(PRESETS)}) or a folder with a config.json.',
    )
    flags.DEFINE_bool(
        'only_correct',
        default.only_correct,
        'Leave out the problems that the teacher answers wrong; how many is told and recorded.',
    )


def inputs_from_flags() -> InputsConfig:
    """Returns the inputs of a study.

    Raises:
        InputError: a value out of range.
    """
    if FLAGS.random_weights:
        logging.warning('random weights: speed and memory are real, what the models say is not')
    return dataclasses.replace(
        problems_from_flags(),
        teacher=FLAGS.teacher,
        student=FLAGS.student,
        teacher_dtype=FLAGS.teacher_dtype,
        random_weights=FLAGS.random_weights,
        only_correct=FLAGS.only_correct,
    )
