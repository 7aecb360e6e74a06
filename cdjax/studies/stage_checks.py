"""What the stages of a pipeline would say of their input hours later, said before the first."""

from typing import TYPE_CHECKING

from jax.sharding import Mesh

from cdjax.distillation.arms import ARMS
from cdjax.distillation.pairings import check_pairs
from cdjax.distillation.store import check_positions_within
from cdjax.errors import InputError
from cdjax.models import Llama
from cdjax.studies.arms import PLANTED, check_answers, rows_outside_share
from cdjax.studies.discovery import check_problems
from cdjax.studies.distillation import check_student_batch
from cdjax.studies.extra import STUDIES
from cdjax.studies.ground_truth import read_ground_truth
from cdjax.studies.inputs import Inputs
from cdjax.studies.methods import check_methods
from cdjax.studies.students import asked_of_teacher
from cdjax.studies.teacher_says import check_kept
from cdjax.studies.weights import check_weights
from cdjax.training.discovery import check_discovery
from cdjax.training.distillation import check_distillation

if TYPE_CHECKING:
    from cdjax.studies.pipeline import PipelineConfig


def check_stages(config: 'PipelineConfig', inputs: Inputs, mesh: Mesh) -> None:
    """Raises InputError for what a stage would say of its input hours later."""
    models = {'teacher': inputs.teacher_config}
    if config.rediscover or set(config.arms.starts) - {'nothing'}:
        models['student'] = inputs.student_config
    check_discovery(
        models, inputs.dataset, config.discovery, mesh=mesh, batch_flag='discovery_batch_size'
    )
    check_problems(inputs, config.discovery)
    config.study.check_sizes(inputs.teacher_config.num_neurons)
    check_methods(
        config.study.methods,
        inputs.dataset,
        config.discovery.num_classes,
        config.discovery,
        config.study.seed,
        inputs.teacher_config,
    )
    if config.arms.arms:
        _check_students(config, inputs, mesh)
    for key in config.studies:
        if STUDIES[key].check is not None:
            STUDIES[key].check(inputs, config.discovery, mesh)


def _check_students(config: 'PipelineConfig', inputs: Inputs, mesh: Mesh) -> None:
    """Raises InputError for what the distillation of the arms would say."""
    starts = config.arms.starts
    aligned = any(ARMS[arm].align is not None for arm in config.arms.arms)
    check_distillation(
        config.arms.distillation,
        len(inputs.split.share),
        vocab_size=inputs.teacher_config.vocab_size,
        mesh=mesh,
        alignment=config.arms.alignment if aligned else None,
    )
    for problems in config.arms.training_problems:
        fewer = len(inputs.with_share(problems).split.share)
        check_distillation(
            config.arms.with_problems(fewer).distillation,
            fewer,
            vocab_size=inputs.teacher_config.vocab_size,
            mesh=mesh,
            alignment=config.arms.alignment if aligned else None,
        )
    if config.arms.circuits == PLANTED:
        if starts != ('nothing',):
            raise InputError(
                f'arm_circuits={PLANTED} are those of the teacher alone, and students that do part '
                'of the task have their own: set starts=nothing, or leave it out'
            )
        read_ground_truth('', inputs)
    patched = any(ARMS[arm].interchanges(config.arms.alignment) for arm in config.arms.arms)
    check_student_batch(config.arms.distillation, inputs, mesh, patched=patched)
    check_pairs(
        config.layer_pairs,
        inputs.student_config,
        inputs.teacher_config,
        trained='nothing' not in starts,
        most=config.most_pairs,
        site=config.arms.alignment.site,
    )
    check_answers(config.arms.arms, config.arms.alignment, inputs.dataset)
    check_positions_within(config.arms.alignment.positions, inputs.dataset)
    check_kept(config.arms.distillation.teacher_store)
    check_teacher_store(config, inputs)
    if 'partial' in starts:
        rows_outside_share(inputs.split)
    if config.arms.weight_grid is not None:
        check_weights(inputs, config.arms)


def check_teacher_store(
    config: 'PipelineConfig', inputs: Inputs, teacher: Llama | None = None
) -> None:
    """Raises InputError for a folder that holds the store of another teacher or another study.

    Args:
        config: what is run.
        inputs: checkpoints and problems.
        teacher: the teacher; it is not compared as long as it is None.
    """
    if config.arms.arms:
        asked = asked_of_teacher(inputs, config.arms, config.layer_pairs)
        asked.check_store(inputs, teacher=teacher)
