"""Says whether a job fits a machine, before a weight is loaded or a machine is paid for.

The programs of the run are compiled for the machine, by its own compiler, on this one. Flags are
those of `experiments.discover` and `experiments.distill`; models may also be presets. Without
--fsdp and --tensor the mesh is searched.

Examples:
    python -m experiments.plan --target=v5e:4x4 --teacher=llama3_8b --student=llama32_1b
    python -m experiments.plan --target=h200x8 --job=discover --teacher=llama31_8b
    python -m experiments.plan --target=cpu --recipe=experiments/recipes/demo.flags
"""

import dataclasses
import sys
from pathlib import Path

from absl import flags

from cdjax.distillation.pairings import Context, pair_layers
from cdjax.distillation.positions import locate
from cdjax.errors import InputError
from cdjax.planning.discovery import DiscoveryJob
from cdjax.planning.distillation import DistillationJob
from cdjax.planning.fitting import MeshShape
from cdjax.planning.job import Job
from cdjax.planning.plan import describe, plan_job
from cdjax.planning.targets import Target, parse_target
from cdjax.run.folder import as_json
from cdjax.studies.discovery import check_problems
from cdjax.studies.inputs import Inputs
from cdjax.training.accumulation import check_repeats
from cdjax.training.distillation import DistillationConfig
from experiments import command_line, launch
from experiments.announce import announce_measuring
from experiments.flags import (
    alignment_from_flags,
    define_checkpoint_flags,
    define_discovery_flags,
    define_distillation_flags,
    define_dry_run_flag,
    define_mesh_flags,
    define_pass_flag,
    define_task_flags,
    discovery_from_flags,
    distillation_from_flags,
    inputs_from_flags,
    run_options,
)
from experiments.output import check_output, write_output

FLAGS = flags.FLAGS
flags.DEFINE_string(
    'target', 'cpu', 'Machine: v5e:4x4, v5p:2x2x4, v6e:4x4, h200x8, h100x8, cpu or cpu:8.'
)
flags.DEFINE_string(
    'recipe', None, 'Flag file of any launcher; what a plan does not depend on is passed over.'
)
flags.DEFINE_enum('job', 'distill', ['discover', 'distill'], 'Which of the two stages is planned.')
flags.DEFINE_bool(
    'keep_teacher',
    DistillationJob.keep_teacher,
    'The teacher stays loaded while the student trains, as in experiments.pipeline and '
    'compare_arms; experiments.distill lets it go.',
)
flags.DEFINE_bool('largest_batch', True, 'Also search the largest batch that fits.')
flags.DEFINE_string('output', None, 'JSON file to write the plan to.')
define_dry_run_flag('which job would be compiled for what')
define_checkpoint_flags()
define_task_flags()
define_discovery_flags()
define_distillation_flags()
define_pass_flag()
define_mesh_flags()


def main() -> None:
    """Compiles, and prints the plan."""
    if FLAGS.recipe is not None:
        _read_recipe(FLAGS.recipe)
    target = parse_target(FLAGS.target)
    if FLAGS.output is not None:
        check_output(FLAGS.output, 'programs', 'a plan')
    job, mesh = job_from_flags(), _mesh_from_flags(target)
    announce_measuring(
        f'plan: the programs of experiments.{FLAGS.job} for {target.name}, compiled on this '
        'machine; nothing is loaded or run',
        as_json({'job': job, 'mesh': mesh, 'largest_batch': FLAGS.largest_batch}),
        time='seconds to minutes each',
    )
    plan = plan_job(
        job,
        target,
        mesh=mesh,
        find_largest_batch=FLAGS.largest_batch,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(describe(plan))
    if FLAGS.output is not None:
        write_output(FLAGS.output, plan.to_dict())
        print(f'everything is in {FLAGS.output}')


def job_from_flags() -> Job:
    """Returns the job that the flags describe."""
    # Only shapes are wanted: no checkpoint is fetched or opened, and presets will do.
    inputs = Inputs(dataclasses.replace(inputs_from_flags(), random_weights=True))
    common = {
        'teacher': inputs.teacher_config,
        'length': inputs.dataset.tokens.shape[1],
        'teacher_dtype': inputs.teacher_dtype,
        'options': run_options(),
        'answer_tokens': inputs.dataset.answer_tokens,
    }
    discovery, distillation = discovery_from_flags(), distillation_from_flags()
    if FLAGS.job == 'discover':
        check_problems(inputs, discovery)
        return DiscoveryJob(
            **common,
            num_problems=len(inputs.split.train),
            config=discovery,
            student=inputs.student_config if inputs.has_student else None,
        )
    check_repeats(distillation.batch_size, len(inputs.split.share), DistillationConfig.batch_size)
    alignment = locate(alignment_from_flags(), inputs.dataset, inputs.tokenizer)
    shapes, context = (inputs.student_config, inputs.teacher_config), Context(alignment.site)
    pairs = pair_layers(FLAGS.layer_pairs, *shapes, context=context)
    return DistillationJob(
        **common,
        num_problems=len(inputs.split.share),
        config=distillation,
        student=inputs.student_config,
        alignment=dataclasses.replace(alignment, pairs=pairs, num_classes=FLAGS.num_classes),
        keep_teacher=FLAGS.keep_teacher,
        keep_start=inputs.has_student,
    )


def _read_recipe(path: str) -> None:
    """Sets the flags of a flag file that are defined here; those of the command line win."""
    if not Path(path).is_file():
        raise InputError(f'recipe={path} is no file: name one of experiments/recipes')
    try:
        lines = FLAGS.read_flags_from_files([f'--flagfile={path}'])
    except UnicodeDecodeError as error:
        raise InputError(f'recipe={path} is no text: {error}') from error
    command_line.parse([sys.argv[0], *lines, *sys.argv[1:]], known_only=True)


def _mesh_from_flags(target: Target) -> MeshShape | None:
    fsdp = FLAGS.fsdp if FLAGS['fsdp'].present and FLAGS.fsdp != -1 else None
    tensor = FLAGS.tensor if FLAGS['tensor'].present else None
    if fsdp is None and tensor is None:
        return None
    for name, size in (('fsdp', fsdp), ('tensor', tensor)):
        if size is not None and (size < 1 or target.num_devices % size):
            raise InputError(
                f'{name}={size} does not divide the {target.num_devices} devices of '
                f'{target.name}: leave it out, and it is searched'
            )
    fsdp = target.num_devices // tensor if fsdp is None else fsdp
    tensor = target.num_devices // fsdp if tensor is None else tensor
    if fsdp * tensor != target.num_devices:
        raise InputError(
            f'fsdp={fsdp} times tensor={tensor} is not the {target.num_devices} devices of '
            f'{target.name}: give one of the two'
        )
    return MeshShape(fsdp, tensor)


if __name__ == '__main__':
    launch.run(main)
