"""Stage 2 alone: one student, from circuits that were discovered before."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS, CIRCUITS, Given
from cdjax.distillation.pairings import LAST, Context, check_pairs, pair_layers, reads_models
from cdjax.distillation.pairs import LayerPairs
from cdjax.distillation.positions import locate
from cdjax.distillation.readings import ACTIVATIONS
from cdjax.distillation.store import check_positions_within
from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.models import SITES, Llama, LlamaConfig
from cdjax.parallel.mesh import one_device
from cdjax.run.folder import as_json, check_workdir, open_workdir
from cdjax.run.options import RunOptions
from cdjax.studies.arms import EVALUATE_EVERY, check_answers, check_site
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.layer_pairs import pair_by_doing
from cdjax.studies.outlook import (
    Announce,
    Outlook,
    Stage,
    model_bytes,
    no_announcement,
    passes_stage,
    training_bytes,
    training_stage,
)
from cdjax.studies.places import Places
from cdjax.studies.run import Run
from cdjax.studies.student import Lesson, distil, given_to, prepare
from cdjax.studies.teacher_says import Asked, TeacherSays, check_kept
from cdjax.studies.trained import BEST, Trained, check_evaluations, exported
from cdjax.training.accumulation import check_repeats
from cdjax.training.distillation import (
    DistillationConfig,
    check_distillation,
)
from cdjax.training.memory import check_memory, least_training_bytes


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """Everything that decides one student.

    Attributes:
        inputs: checkpoints, problems and their split.
        distillation: the distillation; what its optimizer leaves open suits the student.
        arm: a key of `cdjax.distillation.arms.ARMS`.
        alignment: how representations are compared, without layers, classes and masks.
        circuits: the teacher's circuits (.safetensors), for arms that need circuits.
        student_circuits: the student's circuits of the same classes, if any.
        layer_pairs: which layers, see `cdjax.distillation.pairings.pair_layers`.
        most_pairs: see `cdjax.distillation.pairings.Context.most`.
        evaluate_every: steps between evaluations on unseen forms.
        export: 'last' or 'best' step, by accuracy on the very problems that are evaluated.
    """

    inputs: InputsConfig = InputsConfig()
    distillation: DistillationConfig = DistillationConfig()
    arm: str = CIRCUITS.key
    alignment: Alignment = Alignment()
    circuits: str | None = None
    student_circuits: str | None = None
    layer_pairs: str = LAST.key
    most_pairs: int | None = None
    evaluate_every: int = EVALUATE_EVERY
    export: str = 'last'

    def __post_init__(self):
        suited = self.distillation.suited_to(pretrained=self.inputs.has_student)
        object.__setattr__(self, 'distillation', suited)
        check_site((self.arm,), self.alignment)  # an unknown one is refused
        if ARMS[self.arm].needs_circuits and self.circuits is None:
            raise InputError(
                f'--arm={self.arm} needs --circuits=PATH: run experiments.discover first'
            )
        self._refuse_what_nothing_reads()
        if self.student_circuits is not None and not self.inputs.has_student:
            raise InputError(
                f'--student_circuits={self.student_circuits} are not those of a student from '
                'nothing: name with --student the checkpoint that they were discovered in'
            )
        check_evaluations(self.evaluate_every, self.export)

    def _unread(self) -> dict[str, tuple[Any, Any]]:
        """Returns by flag what the arm does not read, and its default."""
        if ARMS[self.arm].align is not None:
            return {}
        default, training, aligned = StudentConfig, DistillationConfig(), Alignment()
        unread = {
            'weight': (self.distillation.weight, training.weight),
            'weight_schedule': (self.distillation.weight_schedule, training.weight_schedule),
            'similarity': (self.alignment.similarity, aligned.similarity),
            'align_reading': (self.alignment.reading, aligned.reading),
            'min_count': (self.alignment.min_count, aligned.min_count),
            'row_memory': (self.alignment.memory, aligned.memory),
        }
        if self.distillation.trained == 'all':  # else what is trained goes by pairs of layers
            unread |= {
                'align_site': (self.alignment.site, aligned.site),
                'align_positions': (self.alignment.positions, aligned.positions),
                'layer_pairs': (self.layer_pairs, default.layer_pairs),
                'most_pairs': (self.most_pairs, default.most_pairs),
            }
        return unread

    def _refuse_what_nothing_reads(self) -> None:
        for name, (value, default) in self._unread().items():
            if value != default:
                raise InputError(
                    f'--{name}={value} is of an alignment, and --arm={self.arm} aligns nothing: '
                    'leave it out, or choose another arm'
                )
        for name in ('circuits', 'student_circuits'):
            path = getattr(self, name)
            if path is not None and not ARMS[self.arm].needs_circuits:
                users = ', '.join(key for key, arm in ARMS.items() if arm.needs_circuits)
                raise InputError(
                    f'--{name}={path} is not read by --arm={self.arm}: leave it out, or choose an '
                    f'arm of circuits ({users})'
                )


class StudentStudy:
    """The distillation of one student, checked and claimed.

    Everything that can be wrong with the input is found here, before the folder is claimed; the
    teacher is loaded first where its circuits have to be compared with it.

    Args:
        config: what is run.
        workdir: the folder of the run.
        mesh: the mesh; one device if None.
        options: what the training writes and checks on the way.
        announce: is told what is going to be done, before a model is loaded and the folder claimed.

    Raises:
        InputError: wrong inputs (see `Inputs`), circuits of another model, other problems or other
            classes, settings that cannot work, or a folder that holds another run.
    """

    def __init__(
        self,
        config: StudentConfig,
        workdir: epath.PathLike,
        *,
        mesh: Mesh | None = None,
        options: RunOptions = RunOptions(),
        announce: Announce = no_announcement,
    ):
        mesh = one_device() if mesh is None else mesh
        inputs = Inputs(config.inputs)
        located = locate(config.alignment, inputs.dataset, inputs.tokenizer)
        config = dataclasses.replace(config, alignment=located)
        shapes = inputs.student_config, inputs.teacher_config
        trained = inputs.has_student
        check_pairs(
            config.layer_pairs,
            *shapes,
            trained=trained,
            most=config.most_pairs,
            site=config.alignment.site,
        )
        check_answers((config.arm,), config.alignment, inputs.dataset)
        check_positions_within(config.alignment.positions, inputs.dataset)
        arm = ARMS[config.arm]
        self._circuits = _load_circuits(config, inputs) if arm.needs_circuits else (None, None)
        if arm.needs_circuits:
            arm.check(self._circuits[0].num_classes)
        check_distillation(
            config.distillation,
            len(inputs.split.share),
            vocab_size=inputs.teacher_config.vocab_size,
            mesh=mesh,
            alignment=None if arm.align is None else config.alignment,
        )
        patched = arm.interchanges(config.alignment)
        check_student_batch(config.distillation, inputs, mesh, patched=patched)
        check_kept(config.distillation.teacher_store)
        self.config = config
        if not inputs.keeps_right:  # else the teacher tells first which problems there are
            self._check_store(inputs)
        facts = {**dataclasses.asdict(config), 'inputs': inputs.facts()}
        teacher, student = self._circuits
        for name, circuit in (
            ('circuits', teacher),
            ('student_circuits', student),
        ):  # what lies under a path may be another the next time
            facts[name] = None if circuit is None else [facts[name], circuit.hash]
        folder = check_workdir(workdir, facts, name='distill')
        announce(Outlook('distill', folder, as_json(facts), _stages(config, inputs, folder), mesh))
        self._teacher = inputs.load_teacher(mesh)
        if student is not None:
            name = f'--student_circuits={config.student_circuits}'
            inputs.check_circuits(student, name, model=inputs.load_student(mesh))
        if teacher is not None:
            name = f'--circuits={config.circuits}'
            inputs.check_circuits(teacher, name, model=self._teacher)
        self._check_store(inputs, self._teacher)
        claimed = open_workdir(workdir, facts, name='distill')
        self._run = Run(inputs, claimed, mesh, options)

    def run(self) -> Trained:
        """Distils what has not been distilled yet, exports the student and measures it."""
        config, run, inputs = self.config, self._run, self._run.inputs
        lesson = self._lesson()
        del self._teacher  # unless it is asked at every step, its memory is the student's now
        unseen = inputs.dataset[inputs.split.test]
        model, _ = distil(
            run,
            lesson,
            inputs.load_student(run.mesh) if inputs.has_student else inputs.student_config,
            config.distillation,
            unseen,
            evaluate_every=config.evaluate_every,
            workdir=run.workdir,
            description=f'distill: {config.arm}',
            best=BEST,
        )
        model = exported(model, run.workdir, config.export)
        folder = run.places.exported
        run.save_student(model, folder, 'share', from_checkpoint=inputs.has_student)
        return Trained(model, folder, predict(model, unseen, **run.passes).accuracy, len(unseen))

    def _lesson(self) -> Lesson:
        """Returns what the arm teaches, for which the teacher is asked."""
        config, inputs, arm = self.config, self._run.inputs, ARMS[self.config.arm]
        alignment = dataclasses.replace(config.alignment, pairs=self._pairs())
        says = TeacherSays(self._run, self._asked(inputs, alignment), self._teacher)
        seed = config.distillation.seed
        return prepare(arm, given_to([arm], inputs, alignment, self._circuits, says, seed), says)

    def _asked(self, inputs: Inputs, alignment: Alignment) -> Asked:
        """Returns what the teacher is going to be asked, of the layers that are paired."""
        config, arm = self.config, ARMS[self.config.arm]
        layers = () if arm.align is None else set(alignment.teacher_layers)
        layers = None if arm.other_layers else layers
        return Asked(inputs.split.share, config.distillation, config.alignment, layers, [arm])

    def _check_store(self, inputs: Inputs, teacher: Llama | None = None) -> None:
        """Raises InputError for a folder that holds another store, as far as that is known yet."""
        pairs = self._pairs_from_shapes(inputs)
        if pairs is None:
            return
        alignment = dataclasses.replace(self.config.alignment, pairs=pairs)
        arm, reading = ARMS[self.config.arm], ACTIVATIONS.key
        if arm.align is not None and not arm.needs_contribution:
            shape = inputs.student_config
            units = shape.num_layers, SITES[alignment.site].units(shape)
            given = Given(alignment, inputs.split.share, *self._circuits, student_shape=units)
            reading = arm.alignment(given).stored
        self._asked(inputs, alignment).check_store(inputs, reading=reading, teacher=teacher)

    def _pairs_from_shapes(self, inputs: Inputs) -> LayerPairs | None:
        """Returns the layers that are aligned, None where what models do is going to pair them."""
        config = self.config
        if ARMS[config.arm].align is None and config.distillation.trained == 'all':
            return ()
        if reads_models(config.layer_pairs):
            return None
        shapes = inputs.student_config, inputs.teacher_config
        return pair_layers(config.layer_pairs, *shapes, context=Context(config.alignment.site))

    def _pairs(self) -> LayerPairs:
        """Returns the layers that are aligned; none where nothing asks for them."""
        config, inputs = self.config, self._run.inputs
        pairs = self._pairs_from_shapes(inputs)
        if pairs is not None:
            return pairs
        return pair_by_doing(
            config.layer_pairs,
            (inputs.load_student(self._run.mesh), self._teacher),
            inputs,
            config.alignment,
            config.most_pairs,
            config.distillation.seed,
            self._run.passes,
        )


def _stages(config: StudentConfig, inputs: Inputs, folder: epath.Path) -> tuple[Stage, ...]:
    training, dataset = config.distillation, inputs.dataset
    size = dataset.tokens.shape[1], dataset.answer_tokens
    # The teacher is let go before the student is made.
    teacher = model_bytes(inputs.teacher_config, inputs.teacher_dtype)
    patched = ARMS[config.arm].interchanges(config.alignment)
    trained = training_bytes(inputs.student_config, training, *size, patched=patched)
    memory = max(teacher, trained)
    steps = training.optimizer.steps
    return (
        training_stage(f'distill: {config.arm}', steps, folder, memory=memory),
        passes_stage('export the student', Places(folder).exported),
    )


def check_student_batch(
    config: DistillationConfig, inputs: Inputs, mesh: Mesh, *, patched: bool
) -> None:
    """Raises InputError for a batch that cannot fit, or of more problems than the share has."""
    needed = least_training_bytes(
        inputs.student_config,
        config.batch_size // config.microbatches,
        inputs.dataset.tokens.shape[1],
        remat=config.remat,
        dtype=config.compute_dtype,
        answer_tokens=inputs.dataset.answer_tokens,
        patched=patched,
    )
    check_memory(needed, mesh, batch_size=config.batch_size)
    check_repeats(config.batch_size, len(inputs.split.share), DistillationConfig.batch_size)


def _load_circuits(config: StudentConfig, inputs: Inputs) -> tuple[Circuit, Circuit | None]:
    teacher = _load('circuits', config.circuits, inputs, inputs.teacher_config)
    if config.student_circuits is None:
        return teacher, None
    path = config.student_circuits
    student = _load('student_circuits', path, inputs, inputs.student_config)
    if not np.array_equal(student.assignments, teacher.assignments):
        raise InputError(
            f'--student_circuits={path} has other classes than --circuits={config.circuits}: '
            'discover both in one run (experiments.discover --student=PATH)'
        )
    return teacher, student


def _load(name: str, path: str, inputs: Inputs, shape: LlamaConfig) -> Circuit:
    circuit = Circuit.load(path)
    wanted = (shape.num_layers, shape.intermediate_size)
    if circuit.masks.shape[1:] != wanted:
        raise InputError(
            f'--{name}={path} has masks of {circuit.masks.shape[1:]} layers and neurons, and the '
            f'model {wanted}: discover them in this model'
        )
    inputs.check_circuits(circuit, f'--{name}={path}')
    return circuit
